"""Decrypting: what is known on entry, what entry refuses, policies, limits and the encryption context."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentError,
    EncryptionClient,
    EncryptionContextMismatchError,
    EncryptionError,
    LimitError,
    Limits,
    MalformedMessageError,
    ProviderError,
    RawAESMasterKey,
    SignaturePolicy,
    SignaturePolicyError,
    StreamNotEnteredError,
    TagError,
    TruncatedMessageError,
    decrypt,
    decrypt_stream,
    open_seekable,
)
from tests.support.messages import (
    Message,
    build_message,
    cut,
    example_signing_key,
    public_key_pair,
)
from tests.support.streaming import (
    KEY,
    SIGNED,
    UNSIGNED,
    Feed,
    assert_idle,
    client_for,
    flipped,
    in_chunks,
    is_again,
    on_asyncio,
    plaintext_of,
    sealed,
)
from tests.support.watching import CountingKey

pytestmark = pytest.mark.anyio

ALLOWING = client_for(AlgorithmSuite(0x0178))  # reads suites without commitment, too
SUITE_IDS = [0x0178, 0x0378, 0x0478, 0x0578]
suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


def message_of(suite: AlgorithmSuite, length: int = 100, **options: Any) -> Message:
    """Write a message that `CountingKey` opens."""
    pairs = {"tenant": "42", "secret": "top", **(options.pop("pairs", {}))}
    if suite.signed:
        pairs |= public_key_pair(example_signing_key(suite))
    return build_message(
        suite, plaintext_of(length), encryption_context=pairs, **{"frame_length": 10, **options}
    )


async def entry_error(
    source: Any, key: Any, client: EncryptionClient = ALLOWING, **options: Any
) -> Exception:
    """Return what entering raises; the stream must have no header then, and stay failed."""
    stream = client.decrypt_stream(source, key, **options)
    with pytest.raises(EncryptionError) as caught:
        await stream.__aenter__()
    with pytest.raises(StreamNotEnteredError):
        _ = stream.header
    assert not stream.verified
    for use in (stream.read, stream.__anext__):
        with pytest.raises(type(caught.value)) as again:
            await use()
        assert is_again(again.value, caught.value)
    return caught.value


# Entering


@suites
async def test_the_header_is_known_on_entry_and_not_before(suite: AlgorithmSuite) -> None:
    """decrypt.md#verify-the-header: released as soon as its tag is verified."""
    message = message_of(suite)
    source = Feed(message.data[: message.header_length], message.data[message.header_length :])
    stream = decrypt_stream(source, CountingKey())
    with pytest.raises(StreamNotEnteredError, match="use it in `async with`"):
        _ = stream.header
    assert not stream.verified
    async with stream:
        assert source.reads == 1, "the body is not read for the header"
        header = stream.header
        assert not stream.verified
        assert await stream.read() == plaintext_of(100)
    assert stream.header is header
    assert header.algorithm_suite is suite
    assert header.encryption_context["tenant"] == "42"
    assert header.message_id == message.message_id
    assert header.frame_length == 10
    assert_idle()


HEADER_ERRORS: dict[str, tuple[Callable[[Message], bytes], type[Exception], str]] = {
    "nothing": (lambda m: b"", TruncatedMessageError, "ended in the header"),
    "cut": (lambda m: m.data[: m.header_length - 1], TruncatedMessageError, "ended in the header"),
    "text": (lambda m: b"plaintext", MalformedMessageError, "starts with 0x70, not with version 1 or 2"),
    "base64": (lambda m: base64.b64encode(m.data), MalformedMessageError, "looks like .* base64: decode it"),
    "suite": (lambda m: m.replaced("suite", b"\x01\x01"), MalformedMessageError, "suite 0x0101 is unknown"),
    "frame": (lambda m: m.replaced("frame_length", bytes(4)), MalformedMessageError, "frame length 0"),
    "count": (lambda m: m.replaced("edk_count", bytes(2)), MalformedMessageError, "no encrypted data key"),
    "context": (
        lambda m: m.replaced("context", b"\0\x09" + m["context"][2:]),
        MalformedMessageError,
        "passes",
    ),
    "tag": (lambda m: flipped(m.data, m.header_length - 1), TagError, "the header fails authentication"),
    "owner": (lambda m: m.replaced("edk.0.id", b"best"), ProviderError, "from the providers 'best'"),
}


@pytest.mark.parametrize("name", HEADER_ERRORS)
async def test_errors_of_the_header_come_from_entry(name: str) -> None:
    """decrypt.md#parse-the-header: nothing of the header is released before its tag is verified."""
    change, error_type, text = HEADER_ERRORS[name]
    for suite_id in SUITE_IDS:
        message = message_of(AlgorithmSuite(suite_id))
        data = change(message)
        for source in (data, Feed(data), Feed(*cut(data, 1))):
            error = await entry_error(source, CountingKey())
            assert type(error) is error_type
            assert re.search(text, str(error))
        with pytest.raises(error_type, match=text):
            await ALLOWING.decrypt(data, CountingKey())
    assert_idle()


@pytest.mark.parametrize("suite_id", SUITE_IDS, ids=hex)
@on_asyncio
async def test_another_message_id_is_another_key(suite_id: int) -> None:
    """decrypt.md#get-the-decryption-materials: the commit key is compared, before the header tag."""
    message = message_of(AlgorithmSuite(suite_id))
    data = flipped(message.data, message.fields["message_id"].start)
    error = await entry_error(data, CountingKey())
    assert type(error) is (CommitmentError if message.suite.committing else TagError)


async def test_a_wrong_key_comes_from_entry_with_its_cause() -> None:
    other = RawAESMasterKey("tests", "streams", wrapping_key=bytes(32))
    source = Feed(await sealed(b"abc"))
    error = await entry_error(source, other)
    assert isinstance(error, ProviderError)
    (attempt,) = error.attempts
    assert (attempt.operation, attempt.provider_id, attempt.key_id) == ("decrypt", "tests", "streams")
    assert "another wrapping key or encryption context" in str(attempt.error)
    assert str(attempt.error) in str(error)


async def test_an_error_of_the_header_leaves_the_rest_of_the_source_alone() -> None:
    message = message_of(SIGNED).data
    source = Feed(flipped(message, 3), message)
    await entry_error(source, CountingKey())
    assert source.reads == 1


# Signature policy


@pytest.mark.spec("client-apis/decrypt.md#behavior")
@pytest.mark.parametrize("policy", SignaturePolicy, ids=lambda policy: policy.name)
@pytest.mark.parametrize("suite_id", SUITE_IDS, ids=hex)
@on_asyncio
async def test_signature_policy(policy: SignaturePolicy, suite_id: int) -> None:
    """decrypt.md#behavior: the option to fail right after the header, before any key call."""
    message = message_of(AlgorithmSuite(suite_id))
    signed = message.suite.signed
    refused = {SignaturePolicy.FORBID: signed, SignaturePolicy.REQUIRE: not signed}.get(policy, False)
    key, source = CountingKey(), Feed(message.data[: message.header_length], message.data)
    if not refused:
        for data in (message.data, bytearray(message.data)):
            assert (await ALLOWING.decrypt(data, key, signature_policy=policy)).plaintext == plaintext_of(100)
        assert key.calls == ["decrypt"] * 2
        return
    error = await entry_error(source, key, signature_policy=policy)
    assert type(error) is SignaturePolicyError
    state = "signed" if signed else "not signed"
    text = f"signature_policy={policy.name}, and the message is {state} ({message.suite.name})"
    assert str(error) == text
    with pytest.raises(SignaturePolicyError):
        await ALLOWING.decrypt(message.data, key, signature_policy=policy)
    assert key.calls == []
    assert source.reads == 1


# Limits


HEADER_LENGTH = message_of(SIGNED).header_length
LIMITS = [
    # setting, what breaks it, its least value that lets the message in, what is said
    ("max_header_length", {}, HEADER_LENGTH, "the length of the header is"),
    ("max_frame_length", {}, 10, "the length of frame 1 is 10"),
    ("max_frame_length", {"frame_length": None}, 100, "the length of the non-framed body is 100"),
    ("max_plaintext_length", {}, 100, "the length of the plaintext, so far, is 100"),
    ("max_plaintext_length", {"frame_length": None}, 100, "the length of the plaintext, so far, is 100"),
]


@pytest.mark.parametrize(("name", "options", "least", "text"), LIMITS)
@pytest.mark.parametrize("feed", [None, 1, 50], ids=["whole", "bytes", "pieces"])
@on_asyncio
async def test_limits_name_themselves_and_both_figures(
    name: str, options: dict[str, Any], least: int, text: str, feed: int | None
) -> None:
    data = message_of(SIGNED, **options).data

    async def decrypt_with(client_limits: Limits, call_limits: Limits | None) -> None:
        client = EncryptionClient(limits=client_limits)
        source = in_chunks(data, feed) if feed else data
        plaintext, _ = await client.decrypt(source, CountingKey(), limits=call_limits)
        assert plaintext == plaintext_of(100)

    unlimited = Limits(max_header_length=None, max_frame_length=None)
    fits, breaks = Limits(**{name: least}), Limits(**{name: least - 1})
    for allowed in ((fits, None), (breaks, fits), (breaks, unlimited)):
        await decrypt_with(*allowed)
    for refused in ((breaks, None), (fits, breaks), (unlimited, breaks)):
        with pytest.raises(LimitError, match=text) as caught:
            await decrypt_with(*refused)
        assert (caught.value.parameter, caught.value.limit, caught.value.actual) == (name, least - 1, least)
        assert f"above {name}={least - 1}; raise {name}" in str(caught.value)


async def ending_in_a_trap(data: bytes) -> AsyncIterator[bytes]:
    yield data
    raise AssertionError("a limit is checked before the bytes are read")


@pytest.mark.parametrize(
    "start", [bytes(3) + b"\1", b"\xff" * 4 + bytes(3) + b"\1" + bytes(12) + b"\xff" * 4]
)
async def test_a_frame_of_4_gib_is_refused_before_its_bytes(start: bytes) -> None:
    message = message_of(UNSIGNED, frame_length=0xFFFFFFFF)
    source = ending_in_a_trap(message.data[: message.header_length] + start)
    async with decrypt_stream(source, CountingKey()) as stream:
        with pytest.raises(LimitError) as caught:
            await stream.read()
        stream.abandon()
    assert caught.value.limit == Limits().max_frame_length == 64 * 1024 * 1024
    assert caught.value.actual == 0xFFFFFFFF


async def test_a_short_message_may_name_a_long_frame_length() -> None:
    message = message_of(UNSIGNED, frame_length=2**31)
    assert (await decrypt(message.data, CountingKey())).plaintext == plaintext_of(100)
    async with open_seekable(message.data, CountingKey()) as stream:
        assert await stream.read() == plaintext_of(100)


@pytest.mark.parametrize(
    ("options", "limits", "last", "released"),
    [
        ({"frame_length": None}, Limits(max_frame_length=99), "body.length", 0),
        ({"frame_length": None}, Limits(max_plaintext_length=99), "body.length", 0),
        ({}, Limits(max_plaintext_length=49), "frame.5.sequence", 40),
        ({"full_final_frame": True}, Limits(max_plaintext_length=99), "frame.10.length", 90),
    ],
    ids=["non-framed", "non-framed-plaintext", "regular", "final"],
)
async def test_a_breach_in_the_body_shows_before_its_bytes_are_read(
    options: dict[str, Any], limits: Limits, last: str, released: int
) -> None:
    message = message_of(UNSIGNED, **options)
    source = ending_in_a_trap(message.data[: message.fields[last].stop])
    async with decrypt_stream(source, CountingKey(), limits=limits) as stream:
        plaintext = await stream.readexactly(released)
        with pytest.raises(LimitError):
            await stream.read(1)
        stream.abandon()
    assert plaintext == plaintext_of(released)


@pytest.mark.parametrize("name", ["max_header_length", "max_frame_length", "max_plaintext_length"])
def test_a_limit_is_0_or_more(name: str) -> None:
    assert getattr(Limits(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"{name} is -1; it must be 0 or more, or None"):
        Limits(**{name: -1})


# The encryption context


@suites
async def test_another_value_names_keys_only_and_comes_before_any_key_call(suite: AlgorithmSuite) -> None:
    """cmm-interface.md#decrypt-materials: pairs in both contexts must be equal."""
    message, key = message_of(suite), CountingKey()
    given = {"tenant": "mine-42", "secret": "my-secret", "absent": "my-pair"}
    error = await entry_error(message.data, key, encryption_context=given)
    assert type(error) is EncryptionContextMismatchError
    assert error.keys == ("tenant", "secret")
    assert "'tenant', 'secret'" in str(error)
    for value in ("42", "top", *given.values()):
        assert value not in repr(error) + str(error)
    with pytest.raises(EncryptionContextMismatchError):
        await decrypt(message.data, key, encryption_context=given)
    assert key.calls == []


@suites
async def test_pairs_of_the_header_may_be_given_in_part_or_all(suite: AlgorithmSuite) -> None:
    message = await sealed(b"abc", suite, encryption_context={"tenant": "42", "kind": "x"})
    header = (await decrypt(message, KEY)).header
    for context in ({"tenant": "42"}, dict(header.encryption_context), header.encryption_context, {}, None):
        assert (await decrypt(message, KEY, encryption_context=context)).plaintext == b"abc"


@suites
async def test_a_pair_that_the_header_lacks_is_authenticated_only(suite: AlgorithmSuite) -> None:
    """decrypt.md#verify-the-header: the pairs to only authenticate follow the header body in the AAD."""
    hidden = b"\0\x01" + b"\0\x06hidden" + b"\0\x01x"
    data = message_of(suite, authenticated_context=hidden).data
    result = await decrypt(data, CountingKey(), encryption_context={"hidden": "x", "tenant": "42"})
    assert result.plaintext == plaintext_of(100)
    assert "hidden" not in result.header.encryption_context
    with pytest.raises(TagError):
        await decrypt(data, CountingKey())


@suites
async def test_an_error_says_which_keys_the_header_did_not_have(suite: AlgorithmSuite) -> None:
    given = {"tenant": "42", "first": "my-1", "second": "my-2"}
    note = "; the header does not have the encryption context keys 'first', 'second' that were given"
    written = await sealed(b"abc", suite, encryption_context={"tenant": "42"})
    tag_error = await entry_error(message_of(suite).data, CountingKey(), encryption_context=given)
    key_error = await entry_error(written, KEY, encryption_context=given)
    assert type(tag_error) is TagError
    assert type(key_error) is ProviderError
    for error in (tag_error, key_error):
        assert note in str(error)
        assert type(error.__cause__) is type(error)
        assert note not in str(error.__cause__)
        assert "my-" not in str(error)
    assert isinstance(key_error.__cause__, ProviderError)
    assert key_error.attempts == key_error.__cause__.attempts
    assert len(key_error.attempts) == 1
    plain = await entry_error(
        written,
        RawAESMasterKey("tests", "streams", wrapping_key=bytes(32)),
        encryption_context={"tenant": "42"},
    )
    assert "does not have" not in str(plain)
