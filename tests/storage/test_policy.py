import base64
import hashlib
import itertools
from dataclasses import dataclass

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from hypothesis import given
from hypothesis import strategies as st

from storage.checkpoint import Checkpoint
from storage.cosignature import Cosigner, cosign, sign_as_log
from storage.errors import NoteSignatureError, ProofError
from storage.note import Algorithm, Note, Signature, VerifierKey
from storage.policy import (
    MAX_DEFINED,
    MAX_LINES,
    MAX_NAME_BYTES,
    MAX_POLICY_BYTES,
    MAX_URL_BYTES,
    Group,
    KnownLog,
    MalformedPolicyError,
    Policy,
    PolicyOtherLogError,
    QuorumMissingError,
    WitnessKey,
    open_witnessed,
)

NOW = 1_800_000_000


def key(name: str, algorithm: Algorithm = Algorithm.COSIGNATURE_ED25519) -> VerifierKey:
    """A key that nobody signs with."""
    size = 1312 if algorithm is Algorithm.ML_DSA_44 else 32
    return VerifierKey(name, hashlib.shake_256(name.encode()).digest(size), algorithm)


LOG = key("log.example", Algorithm.ED25519)
W1, W2, W3, W4, W5, W6 = (key(f"witness.example/{number}") for number in range(1, 7))


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    kind = Ed25519PublicKey if len(public) == 32 else MLDSA44PublicKey
    try:
        kind.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


# The example of tlog-policy, with keys in the place of those it leaves out.
EXAMPLE = f"""\
log {LOG}

witness X1 {W1}
witness X2 {W2}
witness X3 {W3}
group X-witnesses 2 X1 X2 X3

witness Y1 {W4}
witness Y2 {W5}
witness Y3 {W6}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def test_the_example_of_the_specification_is_read_as_it_explains() -> None:
    policy = Policy.parse(EXAMPLE)
    assert policy.logs == (LOG,)
    assert [witness.name for witness in policy.witnesses] == ["X1", "X2", "X3", "Y1", "Y2", "Y3"]
    assert policy.groups == (
        Group("X-witnesses", 2, ("X1", "X2", "X3")),
        Group("Y-witnesses", 1, ("Y1", "Y2", "Y3")),
        Group("X-and-Y", 2, ("X-witnesses", "Y-witnesses")),
    )
    # "at least two of the X-witnesses, and at least one of the Y-witnesses"
    names = [witness.name for witness in policy.witnesses]
    for count in range(7):
        for chosen in itertools.combinations(names, count):
            x, y = (sum(name.startswith(letter) for name in chosen) for letter in "XY")
            assert policy.satisfied(chosen) is (x >= 2 and y >= 1)


def spec_witnesses(text: str, name: str, cosigned: frozenset[str]) -> bool:
    """tlog-policy, Defining a witness group, from the policy's lines and by recursion."""
    for keyword, defined, *rest in (line.split() for line in text.splitlines()):
        if defined == name and keyword == "witness":
            return name in cosigned
        if defined == name and keyword == "group":
            need = {"any": 1, "all": len(rest) - 1}.get(rest[0]) or int(rest[0])
            return sum(spec_witnesses(text, member, cosigned) for member in rest[1:]) >= need
    raise AssertionError(name)


@st.composite
def policies(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A policy's lines, and its witnesses' names."""
    witnesses = [f"w{number}" for number in range(draw(st.integers(1, 6)))]
    free, lines = list(witnesses), [f"witness {name} {key(name)}" for name in witnesses]
    for number in range(draw(st.integers(0, 5))):
        if not free:
            break
        members = draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
        threshold = draw(st.sampled_from(["any", "all", *map(str, range(1, len(members) + 1))]))
        lines.append(f"group g{number} {threshold} {' '.join(members)}")
        free = [name for name in free if name not in members] + [f"g{number}"]
    defined = [line.split()[1] for line in lines]
    lines.append(f"quorum {draw(st.sampled_from(defined))}")
    return "\n".join(lines) + "\n", witnesses


@given(policies())
def test_a_quorum_is_decided_as_the_definition_decides_it(drawn: tuple[str, list[str]]) -> None:
    text, witnesses = drawn
    policy, quorum = Policy.parse(text), text.split()[-1]
    for count in range(len(witnesses) + 1):
        for chosen in map(frozenset, itertools.combinations(witnesses, count)):
            expected = spec_witnesses(text, quorum, chosen)
            assert policy.satisfied(chosen) is expected
            # One more witness never takes a quorum away.
            assert not expected or all(policy.satisfied(chosen | {more}) for more in witnesses)


@given(policies(), st.data())
def test_the_time_of_a_quorum_is_the_first_at_which_it_was_one(
    drawn: tuple[str, list[str]], data: st.DataObject
) -> None:
    text, witnesses = drawn
    policy, quorum = Policy.parse(text), text.split()[-1]
    times = data.draw(st.dictionaries(st.sampled_from(witnesses), st.integers(0, 12)))
    seen = [Cosigner(key(name), at) for name, at in times.items()]
    # Every moment is tried; who states no time (0) witnessed at none that is known.
    moments = [
        moment
        for moment in range(14)
        if spec_witnesses(text, quorum, frozenset(name for name, at in times.items() if 1 <= at <= moment))
    ]
    assert policy.satisfied_at(seen) == (moments[0] if moments else None)
    # Somebody whom the policy does not know changes nothing.
    assert policy.satisfied_at([Cosigner(key("stranger"), 1), *seen]) == policy.satisfied_at(seen)


def test_a_policy_that_asks_for_nobody_dates_nothing() -> None:
    policy = Policy.parse(f"witness w {W1}\nquorum none\n")
    assert policy.satisfied_at([Cosigner(W1, 5)]) is None


def test_a_policy_that_names_logs_is_about_no_other_log() -> None:
    other, newer = key("other.example", Algorithm.ED25519), key("log.example", Algorithm.ML_DSA_44)
    policy = Policy.parse(EXAMPLE)
    with pytest.raises(PolicyOtherLogError, match=r"not in the policy.*other\.example"):
        policy.about([other])
    # A key of the same name is another key, and only what the policy names as well is relied on.
    with pytest.raises(PolicyOtherLogError):
        policy.about([newer])
    assert policy.about([newer, LOG]).logs == (LOG,)
    assert policy.about([LOG]).satisfied(["X1", "X2", "Y1"])


def test_a_policy_that_names_no_log_is_about_whichever_it_is_given() -> None:
    assert Policy.parse(f"witness w {W1}\nquorum w\n").about([LOG]).logs == (LOG,)
    with pytest.raises(MalformedPolicyError):
        Policy.parse(f"witness w {W1}\nquorum w\n").about([renamed(W1, Algorithm.ED25519)])


@given(policies())
def test_a_policy_reads_back_as_it_was_written(drawn: tuple[str, list[str]]) -> None:
    policy = Policy.parse(f"log {LOG} https://log.example/\n{drawn[0]}")
    assert Policy.parse(str(policy)) == policy


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                *EXAMPLE.split(),
                "any",
                "all",
                "none",
                "0",
                "2",
                " ",
                "\t",
                "\n",
                "\n",
                "#",
                "log",
                "group",
                "\r",
            ]
        ),
        max_size=30,
    ).map(" ".join)
)
def test_reading_a_policy_raises_only_its_own_error(text: str) -> None:
    try:
        policy = Policy.parse(text)
    except MalformedPolicyError:
        return
    assert Policy.parse(str(policy)) == policy


@given(st.data())
def test_a_policy_with_a_line_lost_or_moved_is_refused_or_asks_for_what_it_says(data: st.DataObject) -> None:
    lines = [line for line in EXAMPLE.splitlines() if line]
    del lines[data.draw(st.integers(0, len(lines) - 1))]
    text = "\n".join(data.draw(st.permutations(lines))) + "\n"
    try:
        policy = Policy.parse(text)
    except MalformedPolicyError:
        return
    everybody = frozenset(witness.name for witness in policy.witnesses)
    assert policy.satisfied(everybody) is spec_witnesses(text, "X-and-Y", everybody)


def test_the_names_of_groups_and_strangers_count_nothing() -> None:
    policy = Policy.parse(EXAMPLE)
    assert not policy.satisfied(["X-witnesses", "Y-witnesses", "X-and-Y", "none", "stranger", W1.name])
    assert not policy.satisfied(["X1", "X1", "X1", "Y1"])


def test_no_quorum_is_satisfied_by_nobody_and_needs_to_be_written() -> None:
    policy = Policy.parse("quorum none\n")
    assert policy == Policy((), (), (), None)
    assert policy.satisfied([])
    assert str(policy) == "quorum none\n"


def test_the_deepest_nesting_that_is_allowed_is_decided() -> None:
    lines = [f"witness w {W1}", "group g0 all w"]
    lines += [f"group g{number} all g{number - 1}" for number in range(1, MAX_DEFINED)]
    policy = Policy.parse("\n".join([*lines, f"quorum g{MAX_DEFINED - 1}", ""]))
    assert policy.satisfied(["w"])
    assert not policy.satisfied([])


# What follows, and READ and REFUSED below, re-uses the cases of transparency-dev/formats @ 5888348f,
# policy/tlog_policy_test.go (Apache-2.0). One is judged otherwise here: see "cut short".
SPACED = (
    f"\n# comment\n\t # another comment\n\twitness \t w1  {W1}   https://w1.example.com/  \n\n  quorum\tw1\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SPACED, Policy((), (WitnessKey("w1", W1, "https://w1.example.com/"),), (), "w1")),
        (
            f"log {LOG} https://log.example.com/\nwitness w1 {W1}\nquorum w1\n",
            Policy((KnownLog(LOG, "https://log.example.com/"),), (WitnessKey("w1", W1, None),), (), "w1"),
        ),
        # K, the Kelvin sign and an umlaut: three names that a normalising reader would confuse.
        (
            f"witness K {W1}\nwitness \u212a {W2}\nwitness \u00fc {W3}\nwitness u\u0308 {W4}\nquorum \u212a\n",
            Policy(
                (),
                (
                    WitnessKey("K", W1, None),
                    WitnessKey("\u212a", W2, None),
                    WitnessKey("\u00fc", W3, None),
                    WitnessKey("u\u0308", W4, None),
                ),
                (),
                "\u212a",
            ),
        ),
        (
            f"witness all {W1}\nwitness any {W2}\ngroup group 2 all any\nquorum group\n",
            Policy(
                (),
                (WitnessKey("all", W1, None), WitnessKey("any", W2, None)),
                (Group("group", 2, ("all", "any")),),
                "group",
            ),
        ),
        # Only tab and space separate: other spaces of Unicode are part of a name.
        (f"witness a\u00a0b\u2028c {W1}\nquorum a\u00a0b\u2028c\n", None),
        # The quorum needs to follow what it names and nothing else.
        (f"witness a {W1}\nquorum a\nwitness b {W2}\ngroup g any b\n", None),
        # A log with two keys.
        (f"log {LOG}\nlog {key('log.example', Algorithm.ML_DSA_44)}\nquorum none\n", None),
    ],
)
def test_what_the_specification_allows_is_read(text: str, expected: Policy | None) -> None:
    policy = Policy.parse(text)
    assert expected in (None, policy)
    assert Policy.parse(str(policy)) == policy


def renamed(original: VerifierKey, algorithm: Algorithm = Algorithm.COSIGNATURE_ED25519) -> VerifierKey:
    return VerifierKey("impostor.example", original.public, algorithm)


def raw(kind: int, public: bytes) -> str:
    """A verifier key of any type with a right hash (signed-note, Signatures)."""
    data = bytes([kind]) + public
    key_id = hashlib.sha256(b"name\n" + data).digest()[:4]
    return f"name+{key_id.hex()}+{base64.b64encode(data).decode()}"


LONG = "x" * (MAX_NAME_BYTES + 1)
MANY = range(MAX_DEFINED + 1)

REFUSED = {
    "empty": "",
    "control character": "quorum none\n\x01\n",
    "NUL": "quorum none\0\n",
    "DEL": "quorum none\x7f\n",
    "CRLF": "quorum none\r\n",
    "form feed": "quorum\fnone\n",
    "not UTF-8": b"# caf\xe9\nquorum none\n".decode("utf-8", "surrogateescape"),
    "cut short": f"witness w1 {W1}\nwitness w {W2}\nquorum w",
    "cut short behind the quorum": f"witness w1 {W1}\nquorum w1\nlog {LOG}",
    "unknown keyword": "quibble w1\nquorum none\n",
    "keyword in capitals": "QUORUM none\n",
    "a mark before the first keyword": "\ufeffquorum none\n",
    "comment after items": f"witness w1 {W1} https://w1.example/ # comment\nquorum w1\n",
    "comment after the quorum": "quorum none # comment\n",
    "log without key": "log\nquorum none\n",
    "log with no key": "log garbage\nquorum none\n",
    "log with too many items": f"log {LOG} https://log.example/ more\nquorum none\n",
    "log with a key of unknown type": f"log {raw(0x63, LOG.public)}\nquorum none\n",
    "log with a witness's key": f"log {W1}\nquorum none\n",
    "log with a wrong hash": f"log {str(LOG).replace(LOG.key_id.hex(), '00000000')}\nquorum none\n",
    "log with a key of small order": f"log {raw(1, bytes(32))}\nquorum none\n",
    "log twice": f"log {LOG}\nlog {LOG} https://log.example/\nquorum none\n",
    "log's key under another name": f"log {LOG}\nlog {renamed(LOG, Algorithm.ED25519)}\nquorum none\n",
    "witness without key": "witness w1\nquorum none\n",
    "witness without name": f"witness {W1}\nquorum none\n",
    "witness with a log's key": f"witness w1 {LOG}\nquorum w1\n",
    "witness with a key of type 2": f"witness w1 {raw(2, W1.public)}\nquorum w1\n",
    "witness with a key of small order": f"witness w1 {raw(4, bytes([1]) + bytes(31))}\nquorum w1\n",
    "witness with a key that is no field element": f"witness w1 {raw(4, bytes([255] * 32))}\nquorum w1\n",
    "witness with a short ML-DSA key": f"witness w1 {raw(6, bytes(range(1, 33)) * 40)}\nquorum w1\n",
    "witness named none": f"witness none {W1}\nquorum none\n",
    "witness named twice": f"witness w1 {W1}\nwitness w1 {W2}\nquorum w1\n",
    "witness's key under another name": f"witness w1 {W1}\nwitness w2 {renamed(W1)}\nquorum w1\n",
    "witness with the log's key": f"log {LOG}\nwitness w1 {renamed(LOG)}\nquorum w1\n",
    "log with the witness's key": f"witness w1 {renamed(LOG)}\nlog {LOG}\nquorum w1\n",
    "log that is its own witness": (
        f"log {key('l', Algorithm.ML_DSA_44)}\nwitness w1 {key('l', Algorithm.ML_DSA_44)}\nquorum w1\n"
    ),
    "group named as a witness": f"witness w1 {W1}\ngroup w1 any w1\nquorum w1\n",
    "group named twice": f"witness a {W1}\nwitness b {W2}\ngroup g any a\ngroup g any b\nquorum g\n",
    "group without members": f"witness w1 {W1}\ngroup g 1\nquorum w1\n",
    "group named none": f"witness w1 {W1}\ngroup none any w1\nquorum none\n",
    "threshold of none": f"witness w1 {W1}\ngroup g 0 w1\nquorum g\n",
    "threshold below none": f"witness w1 {W1}\ngroup g -1 w1\nquorum g\n",
    "threshold above all": f"witness w1 {W1}\ngroup g 2 w1\nquorum g\n",
    "threshold with a sign": f"witness w1 {W1}\ngroup g +1 w1\nquorum g\n",
    "threshold with leading zeros": f"witness w1 {W1}\ngroup g 01 w1\nquorum g\n",
    "threshold in other digits": f"witness w1 {W1}\ngroup g \u0661 w1\nquorum g\n",
    "threshold with a separator": f"witness w1 {W1}\ngroup g 1_0 w1\nquorum g\n",
    "threshold of enormous size": f"witness w1 {W1}\ngroup g {'9' * 5000} w1\nquorum g\n",
    "threshold in capitals": f"witness w1 {W1}\ngroup g ALL w1\nquorum g\n",
    "member unknown": f"witness w1 {W1}\ngroup g any w2\nquorum g\n",
    "member defined later": f"group g any w1\nwitness w1 {W1}\nquorum g\n",
    "member is none": f"witness w1 {W1}\ngroup g any none w1\nquorum g\n",
    "member is the group": f"witness w1 {W1}\ngroup g any g w1\nquorum g\n",
    "members in a circle": f"witness w1 {W1}\ngroup a any b w1\ngroup b any a\nquorum a\n",
    "member twice in a group": f"witness w1 {W1}\ngroup g all w1 w1\nquorum g\n",
    "member of two groups": (
        f"witness w1 {W1}\nwitness w2 {W2}\ngroup g any w1 w2\ngroup h any w1\nquorum g\n"
    ),
    "no quorum": f"witness w1 {W1}\n",
    "two quorums": f"witness w1 {W1}\nquorum w1\nquorum w1\n",
    "two quorums of which one is none": f"witness w1 {W1}\nquorum w1\nquorum none\n",
    "quorum unknown": "quorum unknown\n",
    "quorum before its definition": f"quorum w1\nwitness w1 {W1}\n",
    "quorum without name": "quorum\n",
    "quorum of two names": f"witness a {W1}\nwitness b {W2}\nquorum a b\n",
    "quorum in other letters": f"witness K {W1}\nquorum \u212a\n",
    "too long a name": f"witness {LONG} {W1}\nquorum {LONG}\n",
    "too long a URL": f"witness w1 {W1} https://{'x' * MAX_URL_BYTES}\nquorum w1\n",
    "too many logs": "".join(f"log {key(f'l{n}', Algorithm.ED25519)}\n" for n in MANY) + "quorum none\n",
    "too many witnesses": "".join(f"witness w{n} {key(f'w{n}')}\n" for n in MANY) + "quorum none\n",
    "too many groups": (
        f"witness w {W1}\ngroup g0 any w\n"
        + "".join(f"group g{n} any g{n - 1}\n" for n in MANY if n)
        + "quorum none\n"
    ),
    "too many lines": "\n" * MAX_LINES + "quorum none\n",
    "too large": "#" * MAX_POLICY_BYTES + "\nquorum none\n",
    "too large by its bytes": "#" + "\u212a" * (MAX_POLICY_BYTES // 3) + "\nquorum none\n",
}


@pytest.mark.parametrize("flaw", REFUSED)
def test_a_policy_with_this_flaw_is_refused(flaw: str) -> None:
    with pytest.raises(MalformedPolicyError):
        Policy.parse(REFUSED[flaw])


def test_a_policy_at_the_limits_is_read() -> None:
    name = LONG[1:]
    text = "".join(
        f"log {key(f'l{n}', Algorithm.ML_DSA_44)} https://log.example/{n}\n"
        f"witness w{n} {key(f'w{n}', Algorithm.ML_DSA_44)} https://witness.example/{n}\n"
        for n in range(MAX_DEFINED - 1)
    )
    text += f"witness {name} {W1} {'u' * MAX_URL_BYTES}\ngroup g all {name} w0\nquorum g\n"
    policy = Policy.parse(text)
    assert (len(policy.logs), len(policy.witnesses)) == (MAX_DEFINED - 1, MAX_DEFINED)
    assert policy.satisfied([name, "w0"])
    assert not policy.satisfied(["w0"])


def test_a_flaw_is_named_with_its_line() -> None:
    with pytest.raises(MalformedPolicyError, match=r"^Line 3: the line begins with no known keyword\.$"):
        Policy.parse("# one\n\nquibble\nquorum none\n")


@dataclass(frozen=True)
class Signer:
    """A key pair of a log or witness."""

    key: VerifierKey
    private: Ed25519PrivateKey | MLDSA44PrivateKey

    @classmethod
    def of(cls, name: str, algorithm: Algorithm, seed: bytes | None = None) -> "Signer":
        seed = seed or hashlib.sha256(name.encode()).digest()
        private = (
            MLDSA44PrivateKey.from_seed_bytes(seed)
            if algorithm is Algorithm.ML_DSA_44
            else Ed25519PrivateKey.from_private_bytes(seed)
        )
        return cls(VerifierKey(name, private.public_key().public_bytes_raw(), algorithm), private)

    def cosign(self, text: str) -> Signature:
        return cosign(text, self.key, NOW, self.private.sign)

    def sign(self, text: str) -> Signature:
        return sign_as_log(text, self.key, self.private.sign)


CHECKPOINT = Checkpoint("log.example", 42, bytes(32))
SIGNING_LOG = Signer.of("log.example", Algorithm.ED25519)
# formats, policy/tlog_policy_test.go: published test keys, here with the public keys they give there.
PUBLISHED = (
    ("Wit1", "AeadRiG7XM4XiieCHzD8lxysXMwcViy5nYsoXURWGrlE", "AVhZSmQj9+SoL+p/nN0Hh76xXmF7QcHfytUrI1XfSClk"),
    ("Wit2", "AfPTvxw5eUcqSgivo2vaiC7JPOMUZ/9baHPSDrWqgdGm", "AWVbwFJte9wMQIPSnEnj4KibeO6vSIOEDUTDp3o63c2x"),
    ("Wit3", "AR2Kg8k6ccBr5QXz5SHtnkOS4UGQGEQaWi6Gfr6Mm3X5", "ASb6Uz1+fxAcXkMvDd7nGa3FjDce7LxIKmbbTCT0MpVn"),
)
WITNESSES = [
    Signer.of(name, Algorithm.COSIGNATURE_ED25519, base64.b64decode(secret)[1:])
    for name, secret, _ in PUBLISHED
]
NESTED = (
    f"log {SIGNING_LOG.key}\n"
    + "".join(f"witness w{number} {signer.key}\n" for number, signer in enumerate(WITNESSES, 1))
    + "group inner any w2 w3\ngroup outer all w1 inner\nquorum outer\n"
)


def note(*signatures: Signature, checkpoint: Checkpoint = CHECKPOINT) -> bytes:
    return bytes(Note(str(checkpoint), signatures))


def test_the_published_keys_are_the_published_ones() -> None:
    assert [signer.key.public for signer in WITNESSES] == [
        base64.b64decode(public)[1:] for *_, public in PUBLISHED
    ]


def cosigned_by(*numbers: int) -> bytes:
    text = str(CHECKPOINT)
    return note(*(WITNESSES[number - 1].cosign(text) for number in numbers), SIGNING_LOG.sign(text))


@pytest.mark.parametrize("numbers", [(1, 2, 3), (1, 3), (1, 2), (3, 1)])
def test_a_checkpoint_with_a_quorum_opens_as_witnessed(numbers: tuple[int, ...]) -> None:
    opened = open_witnessed(cosigned_by(*numbers), Policy.parse(NESTED), verify)
    assert opened.checkpoint == CHECKPOINT
    assert opened.cosigners == tuple(Cosigner(WITNESSES[number - 1].key, NOW) for number in numbers)


@pytest.mark.parametrize("numbers", [(), (1,), (2,), (2, 3)])
def test_a_checkpoint_without_a_quorum_does_not_open(numbers: tuple[int, ...]) -> None:
    with pytest.raises(QuorumMissingError) as caught:
        open_witnessed(cosigned_by(*numbers), Policy.parse(NESTED), verify)
    assert isinstance(caught.value, ProofError)
    assert caught.value.code == "quorum-missing"


def test_one_witness_that_signs_often_is_one_witness() -> None:
    policy = Policy.parse(NESTED)
    text = str(CHECKPOINT)
    again = cosign(text, WITNESSES[0].key, NOW + 1, WITNESSES[0].private.sign)
    with pytest.raises(QuorumMissingError):
        open_witnessed(note(WITNESSES[0].cosign(text), again, again, SIGNING_LOG.sign(text)), policy, verify)


def test_two_keys_of_one_name_are_two_witnesses_unless_a_group_says_otherwise() -> None:
    old = Signer.of("witness.example/w", Algorithm.COSIGNATURE_ED25519)
    new = Signer.of("witness.example/w", Algorithm.ML_DSA_44)
    text = str(CHECKPOINT)
    for threshold, enough in (("any", 1), ("all", 2)):
        policy = Policy.parse(
            f"log {SIGNING_LOG.key}\nwitness a {old.key}\nwitness b {new.key}\n"
            f"group w {threshold} a b\nquorum w\n"
        )
        for signers in ([old], [new], [old, new]):
            data = note(SIGNING_LOG.sign(text), *(signer.cosign(text) for signer in signers))
            if len(signers) >= enough:
                assert len(open_witnessed(data, policy, verify).cosigners) == len(signers)
            else:
                with pytest.raises(QuorumMissingError):
                    open_witnessed(data, policy, verify)


def test_a_quorum_without_the_log_is_nothing() -> None:
    policy, text = Policy.parse(NESTED), str(CHECKPOINT)
    cosigned = [signer.cosign(text) for signer in WITNESSES]
    stranger = Signer.of("log.example", Algorithm.ED25519, bytes(range(32)))
    for lines in (cosigned, [stranger.sign(text), *cosigned]):
        with pytest.raises(NoteSignatureError):
            open_witnessed(note(*lines), policy, verify)
    with pytest.raises(NoteSignatureError):
        open_witnessed(note(SIGNING_LOG.sign(text), *cosigned), policy.trusting([stranger.key]), verify)
    with pytest.raises(NoteSignatureError):
        open_witnessed(note(SIGNING_LOG.sign(text), *cosigned), policy.trusting([]), verify)


def test_a_wrong_cosignature_by_a_known_witness_rejects_the_note_even_with_a_quorum() -> None:
    policy, text = Policy.parse(NESTED), str(CHECKPOINT)
    third = WITNESSES[2].key
    lines = [SIGNING_LOG.sign(text), *(signer.cosign(text) for signer in WITNESSES[:2])]
    assert open_witnessed(note(*lines), policy, verify)
    with pytest.raises(NoteSignatureError):
        open_witnessed(note(*lines, Signature(third.name, third.key_id, bytes(72))), policy, verify)


def test_cosignatures_of_another_checkpoint_do_not_count() -> None:
    policy = Policy.parse(NESTED)
    other = Checkpoint("log.example", 43, bytes(32))
    lines = [signer.cosign(str(other)) for signer in WITNESSES]
    with pytest.raises(NoteSignatureError):
        open_witnessed(note(SIGNING_LOG.sign(str(CHECKPOINT)), *lines), policy, verify)


def test_a_quorum_serves_a_log_known_from_elsewhere() -> None:
    without = Policy.parse(NESTED.partition("\n")[2])
    assert without.logs == ()
    text = str(CHECKPOINT)
    data = note(SIGNING_LOG.sign(text), *(signer.cosign(text) for signer in WITNESSES))
    with pytest.raises(NoteSignatureError):
        open_witnessed(data, without, verify)
    policy = without.trusting([SIGNING_LOG.key])
    assert policy == Policy.parse(NESTED)
    assert open_witnessed(data, policy, verify).checkpoint == CHECKPOINT
    with pytest.raises(MalformedPolicyError):
        without.trusting([VerifierKey("log.example", WITNESSES[0].key.public)])


def test_log_and_witness_may_both_sign_with_ml_dsa() -> None:
    # torchwood @ 8e5bbd3c, policy_test.go, TestParsePolicyMLDSAWithWitness.
    log = Signer.of("log.example", Algorithm.ML_DSA_44)
    witness = Signer.of("witness.example/w1", Algorithm.ML_DSA_44)
    policy = Policy.parse(f"log {log.key}\nwitness W1 {witness.key}\nquorum W1\n")
    text = str(CHECKPOINT)
    opened = open_witnessed(note(log.sign(text), witness.cosign(text)), policy, verify)
    assert opened.cosigners == (Cosigner(witness.key, NOW),)
    with pytest.raises(QuorumMissingError):
        open_witnessed(note(log.sign(text)), policy, verify)
    # A good signature for another origin does not satisfy the policy.
    other = Checkpoint("other.example", 42, bytes(32))
    lines = [cosign(str(other), log.key, NOW, log.private.sign), witness.cosign(str(other))]
    with pytest.raises(NoteSignatureError):
        open_witnessed(note(*lines, checkpoint=other), policy, verify)
