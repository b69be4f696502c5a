"""Messages that the specification does not write, but that stand in people's stores."""

from __future__ import annotations

import attrs
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt import (
    AlgorithmSuite,
    DecryptResult,
    MultiMasterKeyProvider,
    ProviderError,
    RawAESMasterKey,
    RawRSAMasterKey,
    RSAPadding,
)
from aioencrypt.materials import EncryptedDataKey, MasterKey
from tests.support.messages import (
    Message,
    MessageWriter,
    build_message,
    context_bytes,
    example_data_key,
    example_signing_key,
    public_key_pair,
    sorted_context,
    u16,
    u32,
)
from tests.support.rows import each_row
from tests.support.streaming import SIGNED, UNSIGNED, client_for, in_chunks, on_asyncio, plaintext_of
from tests.support.vectors import StaticDataKey

pytestmark = [pytest.mark.anyio, on_asyncio]

WRAPPING_KEY = bytes(range(32))
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
V1_SIGNED = AlgorithmSuite.ALG_AES_128_GCM_IV12_TAG16_HKDF_SHA256_ECDSA_P256
V1_UNSIGNED = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_NO_KDF

some_suites = pytest.mark.parametrize(
    "suite", [SIGNED, UNSIGNED, V1_SIGNED, V1_UNSIGNED], ids=lambda suite: f"{suite.value:04x}"
)


def aes_wrapped(
    data_key: bytes, context: bytes, provider_id: bytes = b"ns", name: bytes = b"name"
) -> EncryptedDataKey:
    """framework/raw-aes-keyring.md; `context` is serialized, in the order of the writer."""
    iv = bytes(range(12))
    ciphertext = AESGCM(WRAPPING_KEY).encrypt(iv, data_key, context)
    return EncryptedDataKey(
        provider_id.decode("utf-8", "surrogateescape"), name + u32(128) + u32(12) + iv, ciphertext
    )


def context_for(suite: AlgorithmSuite, context: dict[str, str]) -> dict[str, str]:
    """Add the verification key where the suite signs."""
    return context | (public_key_pair(example_signing_key(suite)) if suite.signed else {})


async def opened(message: Message, key: MasterKey | MultiMasterKeyProvider | None = None) -> DecryptResult:
    """Decrypt whole, byte by byte and in odd chunks; all must say the same."""
    client = client_for(message.suite)
    key = key or StaticDataKey(message.data_key)
    whole = await client.decrypt(message.data, key)
    for chunk in (1, 13, 97):
        async with client.decrypt_stream(in_chunks(message.data, chunk), key) as stream:
            assert await stream.read() == whole.plaintext
            assert stream.header == whole.header
    return whole


# JavaScript before 4.2.1: the order of the encryption context

# What `localeCompare` makes of these keys, and what sorting by UTF-16 code units makes of them; the bytes
# of UTF-8 have "Tenant" before "aws-crypto-public-key", and the full width tilde before the key.
ORDERS = {
    "localeCompare": ["aws-crypto-public-key", "b", "Tenant", "zone"],
    "UTF-16": ["aws-crypto-public-key", "\U0001f511", "\uff5e"],
}
orders = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


def in_order(suite: AlgorithmSuite, order: list[str]) -> tuple[dict[str, str], bytes]:
    """Return a context, and its bytes in the order of an old JavaScript writer."""
    context = context_for(suite, {key: f"value of {key}" for key in order if key[:3] != "aws"})
    serialized = context_bytes([(key, context[key]) for key in order if key in context])
    assert serialized != sorted_context(context)
    return context, serialized


@orders
@some_suites
async def test_headers_of_old_javascript_are_read(suite: AlgorithmSuite, order: list[str]) -> None:
    context, serialized = in_order(suite, order)
    message = build_message(suite, plaintext_of(300), encryption_context=serialized, frame_length=128)
    plaintext, header = await opened(message)
    assert plaintext == plaintext_of(300)
    assert header.encryption_context == context


@orders
@some_suites
async def test_raw_aes_keys_of_old_javascript_are_opened(suite: AlgorithmSuite, order: list[str]) -> None:
    """It wrapped data keys with the context in the same order as it wrote the header."""
    context, serialized = in_order(suite, order)
    edk = aes_wrapped(example_data_key(suite), serialized)
    message = build_message(
        suite, plaintext_of(300), encryption_context=serialized, encrypted_data_keys=[edk], frame_length=128
    )
    key = RawAESMasterKey("ns", "name", wrapping_key=WRAPPING_KEY)
    plaintext, header = await opened(message, key)
    assert plaintext == plaintext_of(300)
    assert header.encryption_context == context


@orders
async def test_pairs_that_are_given_do_not_change_the_order_of_old_javascript(order: list[str]) -> None:
    context, serialized = in_order(UNSIGNED, order)
    edk = aes_wrapped(example_data_key(UNSIGNED), serialized)
    message = build_message(UNSIGNED, b"secret", encryption_context=serialized, encrypted_data_keys=[edk])
    key = RawAESMasterKey("ns", "name", wrapping_key=WRAPPING_KEY)
    for given in (context, dict(reversed(context.items())), {order[-1]: context[order[-1]]}):
        result = await client_for(UNSIGNED).decrypt(message.data, key, encryption_context=given)
        assert result.plaintext == b"secret"


@pytest.mark.parametrize(
    "order",
    [
        ["aws-crypto-public-key", "b", "Tenant", "zone"],
        ["a", "A", "ab", "aB", "Ab", "aws-crypto-public-key"],
        ["aws-crypto-public-key", "key 10", "key_8", "key-9", "key.7", "key7"],
        ["aws-crypto-public-key", "x", "x=", "x~", "x$", "X1"],
    ],
    ids=["capitals", "cases", "separators", "signs"],
)
@some_suites
async def test_raw_aes_keys_of_later_javascript_are_opened(suite: AlgorithmSuite, order: list[str]) -> None:
    """From 4.2.1 on, headers are sorted by bytes, and raw AES keys still by locale."""
    context, serialized = in_order(suite, order)
    edk = aes_wrapped(example_data_key(suite), serialized)
    message = build_message(suite, b"secret", encryption_context=context, encrypted_data_keys=[edk])
    key = RawAESMasterKey("ns", "name", wrapping_key=WRAPPING_KEY)
    assert (await opened(message, key)).plaintext == b"secret"


@some_suites
async def test_a_key_wrapped_with_another_context_does_not_open(suite: AlgorithmSuite) -> None:
    context, serialized = in_order(suite, ORDERS["localeCompare"])
    for other in (b"", sorted_context(context | {"zone": "another"}), serialized[:-1]):
        edk = aes_wrapped(example_data_key(suite), other)
        message = build_message(suite, b"secret", encryption_context=serialized, encrypted_data_keys=[edk])
        key = RawAESMasterKey("ns", "name", wrapping_key=WRAPPING_KEY)
        with pytest.raises(ProviderError, match="fails authentication"):
            await client_for(suite).decrypt(message.data, key)


# Python before 4.0.1: provider ids that are not ASCII are cut to as many bytes as they have characters

cut_names = pytest.mark.parametrize("name", ["größe", "日本", "x\u00e9", "éab", "🔑"])


def rsa_wrapped(data_key: bytes, provider_id: bytes) -> EncryptedDataKey:
    """framework/raw-rsa-keyring.md."""
    sha256 = hashes.SHA256()
    scheme = padding.OAEP(mgf=padding.MGF1(algorithm=sha256), algorithm=sha256, label=None)
    ciphertext = RSA_KEY.public_key().encrypt(data_key, scheme)
    return EncryptedDataKey(provider_id.decode("utf-8", "surrogateescape"), b"name", ciphertext)


@cut_names
@some_suites
async def test_a_cut_provider_id_is_its_keys(suite: AlgorithmSuite, name: str) -> None:
    cut = name.encode()[: len(name)]
    context = context_for(suite, {"a": "1"})
    data_key = example_data_key(suite)
    aes = aes_wrapped(data_key, sorted_context(context), provider_id=cut)
    rsa = rsa_wrapped(data_key, cut)
    keys = (
        RawAESMasterKey(name, "name", wrapping_key=WRAPPING_KEY),
        RawRSAMasterKey(name, "name", private_key=RSA_KEY, padding=RSAPadding.OAEP_SHA256),
    )
    message = build_message(
        suite, b"secret", encryption_context=context, encrypted_data_keys=[aes, rsa], frame_length=128
    )
    for key in keys:
        plaintext, header = await opened(message, key)
        assert plaintext == b"secret"
        # it serializes as it came
        assert header.encrypted_data_keys == (aes, rsa)
        assert header.encrypted_data_keys[0].serialize().startswith(u16(len(cut)) + cut)
        assert header.encrypted_data_keys[0].serialize() in message.data
    # what is written now has the whole name
    for key in keys[:1]:
        written = await client_for(suite).encrypt(b"secret", key, algorithm_suite=suite)
        assert written.header.encrypted_data_keys[0].provider_id == name


@cut_names
@some_suites
async def test_a_cut_provider_id_is_no_other_keys(suite: AlgorithmSuite, name: str) -> None:
    cut = name.encode()[: len(name)]
    context = context_for(suite, {"a": "1"})
    data_key = example_data_key(suite)
    serialized = sorted_context(context)
    odd = aes_wrapped(data_key, serialized, provider_id=cut)
    good = aes_wrapped(data_key, serialized)
    message = build_message(
        suite, b"secret", encryption_context=context, encrypted_data_keys=[odd, good], frame_length=128
    )
    others = [
        RawAESMasterKey(other, "name", wrapping_key=WRAPPING_KEY)
        for other in (name + "x", "x" + name, name * 2)
    ]
    mine = RawAESMasterKey("ns", "name", wrapping_key=WRAPPING_KEY)
    assert (await opened(message, MultiMasterKeyProvider(None, *others, mine))).plaintext == b"secret"
    with pytest.raises(ProviderError, match="belongs to a master key given here") as caught:
        await client_for(suite).decrypt(message.data, MultiMasterKeyProvider(None, *others))
    assert caught.value.attempts == ()
    # errors can be printed and logged, whatever the id
    str(caught.value).encode()


@cut_names
async def test_a_cut_provider_id_under_another_wrapping_key_is_a_failed_attempt(name: str) -> None:
    odd = aes_wrapped(example_data_key(UNSIGNED), b"", provider_id=name.encode()[: len(name)])
    message = build_message(UNSIGNED, b"secret", encrypted_data_keys=[odd])
    other = RawAESMasterKey(name, "name", wrapping_key=bytes(32))
    with pytest.raises(ProviderError, match="fails authentication") as caught:
        await client_for(UNSIGNED).decrypt(message.data, other)
    assert [attempt.provider_id for attempt in caught.value.attempts] == [name]


# Frames


@each_row("suite", AlgorithmSuite)
@pytest.mark.parametrize("length", [64, 192])
async def test_full_final_frames_are_read(suite: AlgorithmSuite, length: int) -> None:
    context = context_for(suite, {"a": "1"})
    message = build_message(
        suite, plaintext_of(length), encryption_context=context, frame_length=64, full_final_frame=True
    )
    assert len(message[f"frame.{length // 64}.length"]) == 4
    assert len(message[f"frame.{length // 64}.content"]) == 64
    assert (await opened(message)).plaintext == plaintext_of(length)


@some_suites
@pytest.mark.parametrize("frame_length", [128, 4096, 65536])
async def test_full_final_frames_of_long_messages_are_read(suite: AlgorithmSuite, frame_length: int) -> None:
    """Long enough for the digest of a signed message to run beside the frames."""
    plaintext = plaintext_of(4 * 65536)
    message = build_message(
        suite,
        plaintext,
        encryption_context=context_for(suite, {}),
        frame_length=frame_length,
        full_final_frame=True,
    )
    client, key = client_for(suite), StaticDataKey(message.data_key)
    assert (await client.decrypt(message.data, key)).plaintext == plaintext
    for chunk in (65537, len(message.data) - 41, len(message.data)):
        assert (await client.decrypt(in_chunks(message.data, chunk), key)).plaintext == plaintext


@some_suites
@each_row("frame_length", [1, 64, None])
@each_row("length", [0, 1, 64, 150])
async def test_random_ivs_are_read(suite: AlgorithmSuite, frame_length: int | None, length: int) -> None:
    context = context_for(suite, {"a": "1"})
    message = build_message(
        suite,
        plaintext_of(length),
        encryption_context=context,
        frame_length=frame_length,
        random_ivs=True,
    )
    assert message["body.iv" if frame_length is None else "frame.1.iv"] != (1).to_bytes(12, "big")
    assert (await opened(message)).plaintext == plaintext_of(length)


async def test_random_and_counted_ivs_in_one_message() -> None:
    plain = build_message(UNSIGNED, plaintext_of(64 * 9), frame_length=64)
    mixed = build_message(UNSIGNED, plaintext_of(64 * 9), frame_length=64, random_ivs=True)
    assert plain.header_length == mixed.header_length
    data = bytearray(plain.data)
    for number in (2, 5, 6, 9):
        for field in ("iv", "content", "tag"):
            place = mixed.fields[f"frame.{number}.{field}"]
            data[place.start : place.stop] = mixed[f"frame.{number}.{field}"]
    assert bytes(data) not in (plain.data, mixed.data)
    assert (await opened(attrs.evolve(plain, data=bytes(data)))).plaintext == plain.plaintext


# Signatures


@pytest.mark.parametrize("suite", [SIGNED, V1_SIGNED], ids=["0578", "0214"])
async def test_signatures_of_any_der_length_are_read(suite: AlgorithmSuite) -> None:
    """The static length is for those who write."""
    assert suite.signature
    signing_key = example_signing_key(suite)
    digest = {"sha256": hashes.SHA256, "sha384": hashes.SHA384}[suite.signature.hash_name]()
    seen: set[int] = set()
    while len(seen) < 3:
        writer = MessageWriter(suite, example_data_key(suite), frame_length=64)
        writer.header(sorted_context(context_for(suite, {})))
        writer.frames(plaintext_of(100))
        signature = signing_key.sign(bytes(writer.data), ec.ECDSA(digest))
        if len(signature) not in seen:
            seen.add(len(signature))
            writer.footer(signature)
            assert (await opened(writer.message(plaintext_of(100)))).plaintext == plaintext_of(100)
