import hashlib
import http.client
import io
import json
import threading
from urllib.parse import urlsplit

import c2pa
import pytest
from PIL import Image

from authn import der
from authn.identity import pem_chain
from authn.timestamp.loopback import serving
from authn.timestamp.request import TimeStampRequest
from authn.timestamp.token import check_token

QUERY = TimeStampRequest(hashlib.sha256(b"claim").digest(), nonce=9).encode()
KIND = {"Content-Type": "application/timestamp-query"}
EKUS = "1.3.6.1.5.5.7.3.4\n1.3.6.1.5.5.7.3.36\n1.3.6.1.4.1.62558.2.1"


def ask(url: str, method: str, body: bytes, headers: dict[str, str]) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request(method, "/", body, headers)
        reply = connection.getresponse()
        return reply.status, reply.getheader("Content-Type"), reply.read()
    finally:
        connection.close()


def test_a_query_gets_a_token_under_the_exact_type(stamp_kit) -> None:
    with serving(stamp_kit.authority(lambda: stamp_kit.at)) as url:
        status, kind, body = ask(url, "POST", QUERY, KIND)
    assert (status, kind) == (200, "application/timestamp-reply")
    token = der.parse(body).children()[1].encoded
    assert check_token(token, b"claim", (stamp_kit.time_stampers,), stamp_kit.at).proven


def test_only_this_machine_can_ask(stamp_kit) -> None:
    with serving(stamp_kit.authority()) as url:
        assert urlsplit(url).hostname == "127.0.0.1"


@pytest.mark.parametrize(
    ("method", "body", "headers", "status"),
    [
        ("GET", b"", {}, 501),
        ("PUT", QUERY, KIND, 501),
        ("POST", QUERY, {"Content-Type": "text/plain"}, 415),
        ("POST", b"x" * ((64 << 10) + 1), KIND, 413),
        ("POST", b"", KIND | {"Content-Length": "-1"}, 411),
        ("POST", b"", KIND | {"Content-Length": "9" * 5000}, 413),
    ],
)
def test_anything_but_a_small_query_is_refused(stamp_kit, method, body, headers, status) -> None:
    with serving(stamp_kit.authority()) as url:
        assert ask(url, method, body, headers)[0] == status
        assert ask(url, "POST", QUERY, KIND)[0] == 200


def test_nothing_is_left_running_afterwards(stamp_kit) -> None:
    before = threading.active_count()
    with serving(stamp_kit.authority()) as url:
        ask(url, "POST", QUERY, KIND)
    assert threading.active_count() == before
    with pytest.raises(OSError, match="refused"):
        ask(url, "POST", QUERY, KIND)


def test_it_ends_even_if_the_block_fails(stamp_kit) -> None:
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), serving(stamp_kit.authority()):
        raise ZeroDivisionError
    assert threading.active_count() == before


def picture() -> io.BytesIO:
    made = io.BytesIO()
    Image.new("RGB", (16, 16), (120, 60, 30)).save(made, "JPEG")
    made.seek(0)
    return made


def sign(signer_kit, url: str) -> bytes:
    manifest = {
        "claim_generator_info": [{"name": "lightseal", "version": "0"}],
        "assertions": [
            {
                "label": "c2pa.actions.v2",
                "data": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture",
                        }
                    ]
                },
            }
        ],
    }
    context = c2pa.Context.from_dict(
        {"trust": {"trust_config": EKUS}, "builder": {"thumbnail": {"enabled": False}}}
    )
    signer = c2pa.Signer.from_callback(
        signer_kit.key.sign, c2pa.C2paSigningAlg.ES256, pem_chain(*signer_kit.chain).decode(), url
    )
    signed = io.BytesIO()
    with signer, c2pa.Builder(json.dumps(manifest), context) as builder:
        builder.sign(signer, "image/jpeg", picture(), signed)
    return signed.getvalue()


def read(media: bytes, *anchors: tuple[str, bytes]) -> tuple[str, set[str], set[str]]:
    context = c2pa.Context.from_dict(
        {
            "trust": {
                "trust_config": EKUS,
                "anchors": [
                    {"trust_anchors": pem.decode(), "trust_kind": kind, "trust_uri": f"urn:test:{kind}"}
                    for kind, pem in anchors
                ],
            },
            "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
            "core": {"allowed_network_hosts": []},
        }
    )
    with c2pa.Reader("image/jpeg", io.BytesIO(media), context=context) as reader:
        found = json.loads(reader.json())
    results = found["validation_results"]["activeManifest"]
    codes = {name: {item["code"] for item in results.get(name, [])} for name in ("success", "failure")}
    return found["validation_state"], codes["success"], codes["failure"]


def test_the_sdk_signs_with_our_chain_and_clock_and_trusts_both_by_their_own_list(
    signer_kit, stamp_kit
) -> None:
    with serving(stamp_kit.authority()) as url:
        media = sign(signer_kit, url)
    signers, clocks = pem_chain(signer_kit.root), pem_chain(stamp_kit.root)
    state, passed, broken = read(media, ("manifest", signers), ("tsa", clocks))
    assert state == "Trusted"
    assert {"timeStamp.trusted", "timeStamp.validated", "signingCredential.trusted"} <= passed
    assert broken == set()
    _, passed, _ = read(media, ("manifest", signers))
    assert "timeStamp.trusted" not in passed
    state, passed, _ = read(media, ("tsa", clocks))
    assert "signingCredential.trusted" not in passed
