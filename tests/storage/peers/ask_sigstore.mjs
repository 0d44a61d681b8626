// Asks @sigstore/verify, in the folder of its environment, whether a checkpoint and a proof of
// inclusion hold. Reads {"name", "key", "key_id", "claims"} as JSON; prints one reason for each
// claim, "" where it holds. What is called is internal to the package: it is pinned.

import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(process.argv[2], "package.json"));
const { verifyCheckpoint } = require("@sigstore/verify/dist/tlog/checkpoint.js");
const { verifyMerkleInclusion } = require("@sigstore/verify/dist/tlog/merkle.js");
const { VerificationError } = require("@sigstore/verify");

const bytes = (text) => Buffer.from(text, "base64");
const asked = JSON.parse(readFileSync(0, "utf8"));
const logs = [
  {
    baseURL: `https://${asked.name}/`,
    logID: bytes(asked.key_id),
    publicKey: createPublicKey({ key: bytes(asked.key), format: "der", type: "spki" }),
  },
];
const answers = asked.claims.map((claim) => {
  const entry = {
    canonicalizedBody: bytes(claim.entry),
    inclusionProof: {
      logIndex: String(claim.index),
      treeSize: String(claim.size),
      rootHash: bytes(claim.root),
      hashes: claim.hashes.map(bytes),
      checkpoint: { envelope: claim.note },
    },
  };
  try {
    verifyMerkleInclusion(entry, verifyCheckpoint(entry, logs));
    return "";
  } catch (error) {
    if (!(error instanceof VerificationError)) throw error;
    return error.message || "refused";
  }
});
process.stdout.write(JSON.stringify(answers));
