import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.checkpoint import open_checkpoint
from storage.errors import Error, MalformedProofError
from storage.merkle import leaf_hash, verify_inclusion
from storage.note import Note, Signature, VerifierKey
from storage.proof import InclusionProof

NOTE = bytes(Note("log.example\n1\nroot\n", (Signature("log.example", b"keys", b"signature"),)))
hashes = st.lists(st.binary(min_size=32, max_size=32), max_size=63).map(tuple)
proofs = st.builds(InclusionProof, st.integers(0, 2**63 - 1), hashes, st.just(NOTE))


@given(proofs)
def test_a_proof_reads_back_as_it_was_written(proof: InclusionProof) -> None:
    assert InclusionProof.parse(str(proof)) == proof


@given(
    st.text(max_size=100)
    | proofs.map(str).flatmap(
        lambda text: st.builds(
            lambda at, new: text[:at] + new + text[at + 1 :], st.integers(0, len(text)), st.text(max_size=2)
        )
    )
)
def test_reading_accepts_what_it_would_write_or_raises_its_own_error(text: str) -> None:
    try:
        assert str(InclusionProof.parse(text)) == text
    except MalformedProofError:
        pass


def test_a_proof_beyond_the_limits_is_refused() -> None:
    good = InclusionProof(2**63 - 1, (bytes(32),) * 63, NOTE)
    assert InclusionProof.parse(str(good)) == good
    for flawed in (
        InclusionProof(2**63, (), NOTE),
        InclusionProof(-1, (), NOTE),
        InclusionProof(0, (bytes(32),) * 64, NOTE),
        InclusionProof(0, (bytes(31),), NOTE),
        InclusionProof(0, (), b"not a note\n"),
    ):
        with pytest.raises(MalformedProofError):
            InclusionProof.parse(str(flawed))
    for text in (str(good).replace("@v1", "@v2"), str(good).replace("index", "extra AA==\nindex")):
        with pytest.raises(MalformedProofError):
            InclusionProof.parse(text)


# Flaws that lie in the log's part of the bundle; the others are in tokens or signatures.
LOG_FLAWS = ("rekor2-checkpoint", "rekor2-inclusion", "rekor2-log")


def test_proofs_of_a_public_log_are_judged_as_published(shared, log) -> None:
    judged = []
    for case in shared("rekor2.json"):
        keys = []
        for trusted in case["trusted_tlogs"]:
            raw = base64.b64decode(trusted["publicKey"]["rawBytes"])
            if trusted["publicKey"]["keyDetails"] == "PKIX_ED25519":
                keys.append(VerifierKey(trusted["baseUrl"].removeprefix("https://"), raw[-32:]))
        (entry,) = case["tlog_entries"]
        published = entry["inclusionProof"]
        note = published["checkpoint"]["envelope"].encode()
        path = tuple(map(base64.b64decode, published.get("hashes", [])))
        proof = InclusionProof(int(published["logIndex"]), path, note)
        leaf = leaf_hash(base64.b64decode(entry["canonicalizedBody"]))
        try:
            assert InclusionProof.parse(str(proof)) == proof
            checkpoint = open_checkpoint(note, keys, log.verify)
            verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
            stands = True
        except Error:
            stands = False
        must_fail = case["case"].endswith("_fail") and case["case"].startswith(LOG_FLAWS)
        assert stands is not must_fail, case["case"]
        judged.append(stands)
    assert set(judged) == {True, False}
