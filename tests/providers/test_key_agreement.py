"""What the keys of key agreement share, compared with the specification written down a second time.

Specification: framework/key-agreement-schemas.md, framework/raw-ecdh-keyring.md#structure.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

import attrs
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings, strategies as st

from aioencrypt import AlgorithmSuite, ProviderError
from aioencrypt.materials import DataKey, EncryptedDataKey
from aioencrypt.providers import key_agreement
from aioencrypt.providers.key_agreement import (
    Parties,
    load_public_key,
    parties_of,
    public_key_of,
    unwrap,
    wrap,
)
from tests.support.ecdh import (
    CURVES,
    DATA_KEY,
    INFO_LENGTHS,
    POINT_LENGTHS,
    SALT,
    ciphertext,
    ec_key,
    fixed_info,
    point,
    provider_info,
)
from tests.support.messages import sorted_context
from tests.support.providers import CONTEXT, SUITE, asking
from tests.support.rows import each_row

SECRET = bytes(range(200, 232))
each_curve = pytest.mark.parametrize("curve", CURVES)
CONTEXTS: list[dict[str, str]] = [
    {},
    CONTEXT,
    {"z": "1", "a": "", "größe": "ß", "": "x"},
    # UTF-8 and UTF-16 sort these differently
    {"\U00010000": "1", "\uffff": "2"},
]


def parties(curve: str = "p256") -> Parties:
    sender, recipient = (ec_key(name, curve) for name in ("sender", "recipient"))
    return Parties(public_key_of(sender, "x").curve, point(sender), point(recipient))


def with_info(info: bytes, provider_id: str = "raw-ecdh") -> EncryptedDataKey:
    return EncryptedDataKey(provider_id, info, b"")


# Provider info


@pytest.mark.spec("framework/raw-ecdh-keyring.md#key-provider-information")
@pytest.mark.parametrize("provider_id", ["raw-ecdh", "aws-kms-ecdh"])
@each_curve
def test_provider_info_of_each_curve(curve: str, provider_id: str) -> None:
    sender, recipient = (point(ec_key(name, curve)) for name in ("sender", "recipient"))
    assert len(sender) == POINT_LENGTHS[curve]
    assert sender[0] in b"\x02\x03"
    info = parties(curve).provider_info
    assert info == provider_info(sender, recipient)
    assert len(info) == INFO_LENGTHS[curve]
    parsed = parties_of(with_info(info, provider_id))
    assert parsed == parties(curve)
    assert parsed is not None
    assert (parsed.curve.name, parsed.sender, parsed.recipient) == (curve, sender, recipient)


@pytest.mark.spec(
    "framework/raw-ecdh-keyring.md#ondecrypt", "framework/aws-kms/aws-kms-ecdh-keyring.md#ondecrypt"
)
@pytest.mark.parametrize(
    "provider_id",
    ["", "aws-kms", "raw_ecdh", "RAW-ECDH", "raw-ecdh ", "aws-kms-ecdh-", "aws-kms-rsa", "raw-ecdh\udce9"],
)
def test_encrypted_data_keys_of_other_providers_are_not_parsed(provider_id: str) -> None:
    assert parties_of(with_info(parties().provider_info, provider_id)) is None


def _with_lengths(first: int, second: int) -> Callable[[str], bytes]:
    def info(curve: str) -> bytes:
        sender, recipient = parties(curve).sender, parties(curve).recipient
        length = POINT_LENGTHS[curve]
        return (
            b"\x01"
            + (length + first).to_bytes(4, "big")
            + recipient
            + (length + second).to_bytes(4, "big")
            + sender
        )

    return info


def _shared_out(change: int) -> Callable[[str], bytes]:
    """Move bytes from the sender to the recipient, with lengths to match."""

    def info(curve: str) -> bytes:
        length = POINT_LENGTHS[curve]
        return provider_info(bytes(length - change), bytes(length + change))

    return info


MALFORMED: dict[str, Callable[[str], bytes]] = {
    "nothing": lambda curve: b"",
    "version 0": lambda curve: b"\x00" + parties(curve).provider_info[1:],
    "version 2": lambda curve: b"\x02" + parties(curve).provider_info[1:],
    "no version": lambda curve: parties(curve).provider_info[1:],
    "recipient too long": _with_lengths(1, 0),
    "recipient too short": _with_lengths(-1, 0),
    "sender too long": _with_lengths(0, 1),
    "sender too short": _with_lengths(0, -1),
    "both lengths wrong": _with_lengths(1, -1),
    "a recipient of 2**32 - 1 bytes": lambda curve: (
        b"\x01\xff\xff\xff\xff" + parties(curve).provider_info[5:]
    ),
    "an empty recipient": lambda curve: b"\x01\0\0\0\0" + parties(curve).provider_info[5:],
    "lengths that differ": _shared_out(1),
    "lengths that differ the other way": _shared_out(-4),
    "a byte more": lambda curve: parties(curve).provider_info + b"\0",
    "a byte less": lambda curve: parties(curve).provider_info[:-1],
    "uncompressed keys": lambda curve: provider_info(*(bytes(2 * POINT_LENGTHS[curve] - 1),) * 2),
    "keys of two curves": lambda curve: provider_info(
        parties(curve).sender, parties("p384" if curve == "p256" else "p256").recipient
    ),
    "lengths of the specification's table": lambda curve: provider_info(bytes(56), bytes(56)),
    "text": lambda curve: b"a key name",
}


@pytest.mark.spec(
    "framework/raw-ecdh-keyring.md#ondecrypt", "framework/aws-kms/aws-kms-ecdh-keyring.md#ondecrypt"
)
@each_row("name", MALFORMED)
@each_curve
def test_malformed_provider_info_is_nobodys(curve: str, name: str) -> None:
    assert parties_of(with_info(MALFORMED[name](curve))) is None


@each_curve
def test_every_length_but_the_right_one_is_nobodys(curve: str) -> None:
    info = parties(curve).provider_info
    for length in range(len(info)):
        assert parties_of(with_info(info[:length])) is None
    for more in (1, 4, 5, len(info)):
        assert parties_of(with_info(info + info[:more])) is None


@each_curve
def test_every_changed_bit_outside_the_keys_is_noticed(curve: str) -> None:
    info = parties(curve).provider_info
    length = POINT_LENGTHS[curve]
    for position in (*range(5), *range(5 + length, 9 + length)):
        for bit in range(8):
            changed = bytearray(info)
            changed[position] ^= 1 << bit
            assert parties_of(with_info(bytes(changed))) is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=160))
def test_bytes_of_any_kind_are_parsed_or_nobodys(data: bytes) -> None:
    for info in (data, parties().provider_info[: len(data)] + data):
        parsed = parties_of(with_info(info))
        assert parsed is None or parsed.provider_info == info


@each_curve
def test_the_sender_is_a_point_on_the_curve(curve: str) -> None:
    sender = ec_key("sender", curve)
    assert parties(curve).sender_public_key() == load_public_key(sender.public_key(), "x")


@each_row("prefix", [0, 1, 2, 4, 5, 6, 255])
@each_curve
def test_a_sender_that_is_no_point_on_the_curve(curve: str, prefix: int) -> None:
    # with x = 2**n - 1, above the prime of each curve, no point is there
    wrong = attrs.evolve(parties(curve), sender=bytes([prefix]) + b"\xff" * (POINT_LENGTHS[curve] - 1))
    with pytest.raises(
        ProviderError, match=rf"^the sender's public key in the message is not a point on {curve}$"
    ) as caught:
        wrong.sender_public_key()
    assert isinstance(caught.value.__cause__, ValueError)


# Derivation and wrapping


@pytest.mark.spec(
    "framework/key-agreement-schemas.md#key-derivation",
    "framework/raw-ecdh-keyring.md#data-key-wrapping",
    "framework/raw-ecdh-keyring.md#onencrypt",
    "framework/aws-kms/aws-kms-ecdh-keyring.md#onencrypt",
)
@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
@each_curve
def test_what_is_written(monkeypatch: pytest.MonkeyPatch, curve: str, context: dict[str, str]) -> None:
    """Salt, commitment key, data key and tag, bound to both public keys and the context."""
    lengths: list[int] = []

    def salt(length: int) -> bytes:
        lengths.append(length)
        return SALT

    monkeypatch.setattr("aioencrypt.providers.key_agreement.os.urandom", salt)
    pair = parties(curve)
    made = wrap(
        SECRET, pair, data_key=DataKey(DATA_KEY), request=asking(context=context), provider_id="raw-ecdh"
    )
    assert lengths == [32]
    assert made == EncryptedDataKey(
        "raw-ecdh",
        provider_info(pair.sender, pair.recipient),
        ciphertext(SECRET, pair.sender, pair.recipient, curve, context),
    )
    assert len(made.ciphertext) == 32 + 32 + 32 + 16


@pytest.mark.spec("framework/key-agreement-schemas.md#key-derivation")
def test_the_fixed_info_by_the_byte() -> None:
    pair = parties()
    assert fixed_info(pair.sender, pair.recipient, "p256", {"tenant": "42"}) == (
        b"ecdh-key-derivation\x00p256\x00HMAC_SHA384\x00"
        + pair.sender
        + pair.recipient
        + b"\x00\x01\x00\x00\x01\x00\x06tenant\x00\x0242"
    )
    assert key_agreement._fixed_info(pair, asking(context={"tenant": "42"})) == fixed_info(
        pair.sender, pair.recipient, "p256", {"tenant": "42"}
    )
    assert key_agreement._fixed_info(pair, asking(context={})).endswith(pair.recipient + b"\0\x01\0")


@pytest.mark.spec("framework/key-agreement-schemas.md#key-derivation")
def test_every_salt_is_new() -> None:
    made = [
        wrap(SECRET, parties(), data_key=DataKey(DATA_KEY), request=asking(), provider_id="raw-ecdh")
        for _ in range(50)
    ]
    assert len({key.ciphertext[:32] for key in made}) == 50
    assert len({key.ciphertext[32:64] for key in made}) == 50
    assert len({key.ciphertext[64:] for key in made}) == 50


def right(suite: AlgorithmSuite = SUITE) -> EncryptedDataKey:
    pair = parties()
    data_key = bytes(range(suite.data_key_length))
    sealed = ciphertext(SECRET, pair.sender, pair.recipient, "p256", CONTEXT, data_key)
    return EncryptedDataKey("raw-ecdh", pair.provider_info, sealed)


def opened(
    encrypted: EncryptedDataKey,
    *,
    secret: bytes = SECRET,
    pair: Parties | None = None,
    suite: AlgorithmSuite = SUITE,
    context: dict[str, str] | None = None,
) -> DataKey:
    request = asking(encrypted, suite=suite, context=context)
    return unwrap(secret, pair or parties(), encrypted_data_key=encrypted, request=request)


@pytest.mark.spec(
    "framework/raw-ecdh-keyring.md#data-key-unwrapping",
    "framework/raw-ecdh-keyring.md#ondecrypt",
    "framework/aws-kms/aws-kms-ecdh-keyring.md#ondecrypt",
)
@pytest.mark.parametrize("suite", AlgorithmSuite, ids=lambda suite: hex(suite.value))
def test_what_is_read(suite: AlgorithmSuite) -> None:
    assert opened(right(suite), suite=suite) == DataKey(bytes(range(suite.data_key_length)))


@pytest.mark.spec(
    "framework/key-agreement-schemas.md#key-commitment",
    "framework/raw-ecdh-keyring.md#ondecrypt",
    "framework/aws-kms/aws-kms-ecdh-keyring.md#ondecrypt",
)
@pytest.mark.parametrize(
    "change",
    [
        {"secret": bytes(32)},
        {"context": {}},
        {"context": {"tenant": "43"}},
        {"context": {**CONTEXT, "more": ""}},
        {"pair": Parties(parties().curve, parties().recipient, parties().sender)},
        {"pair": attrs.evolve(parties(), curve=parties("p384").curve)},
    ],
    ids=["secret", "no context", "value", "one pair more", "sender and recipient", "curve"],
)
def test_the_commitment_key_binds(monkeypatch: pytest.MonkeyPatch, change: dict[str, object]) -> None:
    """It is compared in constant time, before anything is decrypted."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return compare(a, b)

    monkeypatch.setattr("aioencrypt.providers.key_agreement.hmac.compare_digest", watched)
    monkeypatch.delattr(key_agreement, "AESGCM")
    with pytest.raises(ProviderError, match=r"^the commitment key does not match: ") as caught:
        opened(right(), **change)  # type: ignore[arg-type]
    assert caught.value.__cause__ is None
    [(calculated, stored)] = compared
    assert stored == right().ciphertext[32:64]
    assert len(calculated) == 32
    assert calculated != stored


def test_every_changed_bit_of_a_ciphertext_is_noticed() -> None:
    whole = right()
    for position in range(len(whole.ciphertext)):
        for bit in (0, 7):
            changed = bytearray(whole.ciphertext)
            changed[position] ^= 1 << bit
            with pytest.raises(ProviderError) as caught:
                opened(attrs.evolve(whole, ciphertext=bytes(changed)))
            if position < 64:
                assert str(caught.value) == (
                    "the commitment key does not match: another private key or encryption context, "
                    "or a changed encrypted data key"
                )
            else:
                assert str(caught.value) == "the encrypted data key fails authentication: it was changed"
                assert isinstance(caught.value.__cause__, InvalidTag)


@pytest.mark.spec("framework/raw-ecdh-keyring.md#ciphertext", "framework/raw-ecdh-keyring.md#ondecrypt")
def test_ciphertexts_of_every_other_length_are_refused() -> None:
    whole = right()
    for length in (*range(len(whole.ciphertext)), len(whole.ciphertext) + 1, 1000):
        cut = (whole.ciphertext + bytes(1000))[:length]
        with pytest.raises(
            ProviderError,
            match=rf"^the encrypted data key has a ciphertext of {length} bytes; the suite needs 112$",
        ):
            opened(attrs.evolve(whole, ciphertext=cut))


def test_a_data_key_of_another_length_than_the_suites() -> None:
    short = right(AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_NO_KDF)
    with pytest.raises(ProviderError, match="of 96 bytes; the suite needs 112"):
        opened(short)


@pytest.mark.spec("framework/raw-ecdh-keyring.md#data-key-unwrapping")
def test_another_iv_does_not_open() -> None:
    pair = parties()
    sealed = ciphertext(SECRET, pair.sender, pair.recipient, "p256", CONTEXT, iv=bytes(11) + b"\1")
    with pytest.raises(ProviderError, match="fails authentication"):
        opened(EncryptedDataKey("raw-ecdh", pair.provider_info, sealed))


def test_a_context_that_cannot_be_serialized() -> None:
    too_long = {"k": "v" * 65535}
    with pytest.raises(ValueError, match="above the 65535 of the message format"):
        opened(right(), context=too_long)
    with pytest.raises(ValueError, match="above the 65535 of the message format"):
        wrap(
            SECRET,
            parties(),
            data_key=DataKey(DATA_KEY),
            request=asking(context=too_long),
            provider_id="raw-ecdh",
        )
    assert sorted_context({}) == b""
