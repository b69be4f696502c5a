"""Rewrapping: what policies refuse, wrong arguments, and damaged messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicy,
    CommitmentPolicyError,
    DefaultCMM,
    EncryptionClient,
    EncryptionContextMismatchError,
    LimitError,
    MultiMasterKeyProvider,
    PolicyError,
    ProviderError,
    RawAESMasterKey,
    SignatureError,
    SignaturePolicyError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
)
from aioencrypt.inspection import inspect_message
from aioencrypt.materials import EncryptedDataKey
from aioencrypt.rewrap import RewrapStream, rewrap_header, rewrap_stream
from tests.support.providers import OwnKey
from tests.support.rewrapping import (
    NEW,
    NEWER,
    OLD,
    OTHER,
    V1_SIGNED,
    V1_UNSIGNED,
    message_of,
    not_other,
    opens,
    rewrapped,
    rewrapping,
)
from tests.support.streaming import (
    SIGNED,
    UNSIGNED,
    assert_idle,
    client_for,
    flipped,
    plaintext_of,
)

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(1234)


# Policies


async def test_a_policy_that_forbids_the_suite_has_another_for_signed_messages() -> None:
    message = await message_of(V1_SIGNED, PLAINTEXT)
    client = EncryptionClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT)
    async with rewrap_stream(message, OLD, new_provider=NEW, encryption_client=client) as stream:
        new = await stream.read()
        assert stream.header.algorithm_suite is SIGNED
    assert await opens(NEW, new, SIGNED) == PLAINTEXT


async def test_a_policy_that_forbids_to_read_the_suite_forbids_to_rewrap_it() -> None:
    message = await message_of(V1_UNSIGNED, PLAINTEXT)
    with pytest.raises(CommitmentPolicyError):
        await rewrap_stream(message, OLD, new_provider=NEW).__aenter__()
    # Its body is not written anew, so a policy that reads it is enough.
    client = EncryptionClient(commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT)
    async with rewrap_stream(message, OLD, new_provider=NEW, encryption_client=client) as stream:
        assert await opens(NEW, await stream.read(), V1_UNSIGNED) == PLAINTEXT


async def test_an_unsigned_message_never_becomes_a_signed_one() -> None:
    message = await message_of(UNSIGNED, PLAINTEXT)
    client = EncryptionClient(commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT)
    for keep in (False, True):
        with pytest.raises(CommitmentPolicyError):
            await rewrap_stream(
                message, OLD, new_provider=NEW, keep=keep, encryption_client=client
            ).__aenter__()


NOBODY = RawAESMasterKey("nobody", "is asked", wrapping_key=bytes(32))


@pytest.mark.parametrize(
    ("suite", "options", "error", "text"),
    [
        (
            SIGNED,
            {"reencrypt": False},
            SignaturePolicyError,
            f"the message is signed ({SIGNED.name}), and its signature covers the header"
            ": it cannot be rewrapped without encrypting it anew",
        ),
        (
            SIGNED,
            {"keep": True},
            SignaturePolicyError,
            f"the message is signed ({SIGNED.name}), and its signature covers the header"
            ": it is encrypted anew under a new data key, so its encrypted data keys cannot stay; "
            "give every key that is to open it in new_provider, and keep=False",
        ),
        (SIGNED, {"keep": not_other}, SignaturePolicyError, None),
        (SIGNED, {"keep": not_other, "new_provider": None}, SignaturePolicyError, None),
        (
            UNSIGNED,
            {"reencrypt": False},
            PolicyError,
            f"a second header for a message of {UNSIGNED.name} authenticates it with the same "
            "key and IV again, which breaks AES-GCM for whoever has both; let it be encrypted anew, or "
            "give accept_iv_reuse=True",
        ),
    ],
)
async def test_what_is_refused_is_refused_before_any_key_is_asked(
    suite: AlgorithmSuite, options: dict[str, Any], error: type[Exception], text: str | None
) -> None:
    message = await message_of(suite, PLAINTEXT)
    changed: dict[str, Any] = {"new_provider": NEW, "encryption_client": client_for(suite)} | options
    with pytest.raises(error) as caught:
        await rewrap_stream(message, NOBODY, **changed).__aenter__()
    assert type(caught.value) is error
    assert text is None or str(caught.value) == text


async def test_no_key_left_is_refused() -> None:
    message = await message_of(UNSIGNED, PLAINTEXT)
    for options in ({}, {"accept_iv_reuse": True}):
        with pytest.raises(PolicyError, match=r"^no encrypted data key would be left: nobody could open the"):
            await rewrapping(
                message, UNSIGNED, new_provider=None, keep=lambda _: False, **options
            ).__aenter__()


@pytest.mark.parametrize("suite", [V1_UNSIGNED, UNSIGNED, SIGNED], ids=["v1", "v2", "signed"])
async def test_the_limit_of_encrypted_data_keys_counts_for_the_new_message(suite: AlgorithmSuite) -> None:
    message = await message_of(suite, PLAINTEXT)
    policy = client_for(suite).commitment_policy
    three = MultiMasterKeyProvider(NEW, NEWER, OTHER)
    client = EncryptionClient(commitment_policy=policy, max_encrypted_data_keys=2)
    with pytest.raises(LimitError) as caught:
        await rewrap_stream(message, OLD, new_provider=three, encryption_client=client).__aenter__()
    assert (caught.value.parameter, caught.value.limit, caught.value.actual) == (
        "max_encrypted_data_keys",
        2,
        3,
    )
    if not suite.signed:
        with pytest.raises(LimitError):
            await rewrap_stream(
                message, OLD, new_provider=NEW, keep=True, encryption_client=client
            ).__aenter__()


async def test_the_context_of_the_caller_is_checked() -> None:
    message = await message_of(UNSIGNED, PLAINTEXT)
    with pytest.raises(EncryptionContextMismatchError):
        await rewrapping(message, UNSIGNED, encryption_context={"tenant": "43"}).__aenter__()


async def keeps_nothing(key: EncryptedDataKey) -> bool:
    return False


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ValueError, "nobody could open the message: give new_provider, or keep some of its encrypted"),
        ({"keep": True}, ValueError, "nothing would change: give new_provider, or a function for keep"),
        (
            {"new_provider": DefaultCMM(NEW)},
            TypeError,
            "new_provider must be a master key or a provider, not DefaultC",
        ),
        ({"new_provider": "key"}, TypeError, "new_provider must be a master key or a provider, not str"),
        (
            {"new_provider": NEW, "keep": "none"},
            TypeError,
            "keep is True, False, or a .* not str$",
        ),
        (
            {"new_provider": NEW, "keep": None},
            TypeError,
            "keep is True, False, or a function .* not NoneType$",
        ),
        ({"new_provider": NEW, "keep": keeps_nothing}, TypeError, "a function that is not async"),
    ],
)
async def test_wrong_arguments_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        rewrap_stream(b"", OLD, **options)
    with pytest.raises(error, match=text):
        await rewrap_header(b"", OLD, **options)


@pytest.mark.parametrize("answer", [None, "no", 1])
async def test_an_answer_of_keep_that_is_no_answer_keeps_nothing(answer: Any) -> None:
    """The coroutine of an async function, for example, is true."""
    message = await message_of(UNSIGNED, PLAINTEXT)
    with pytest.raises(TypeError, match=f"keep returned {type(answer).__name__}; it must say True or False"):
        await rewrapped(message, UNSIGNED, keep=lambda key: answer)


async def test_a_new_key_that_fails_is_one_provider_error() -> None:
    failing = OwnKey("failing", error=OSError("no route"))
    for suite in (V1_UNSIGNED, UNSIGNED):
        message = await message_of(suite, PLAINTEXT)
        with pytest.raises(ProviderError, match="could not encrypt a data key") as caught:
            await rewrapping(
                message, suite, new_provider=MultiMasterKeyProvider(NEW, failing), keep=True
            ).__aenter__()
        assert isinstance(caught.value.attempts[0].error.__cause__, OSError)


# Damage


async def collect(stream: RewrapStream, made: list[bytes]) -> None:
    """Read a stream to its end or its error, and keep what it gave."""
    async with stream:
        while chunk := await stream.read(1000):
            made.append(chunk)


Damaged = Callable[[bytes], bytes]
damages = pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda message: flipped(message, len(message) - 300), TagError),
        (lambda message: flipped(message, len(message) - 30), TagError),
        (lambda message: message[:-1], TruncatedMessageError),
        (lambda message: message[:-700], TruncatedMessageError),
        (lambda message: message + b"x", TrailingDataError),
    ],
    ids=["frame", "final frame", "cut off", "cut off early", "longer"],
)


@damages
@pytest.mark.parametrize(
    ("suite", "options"),
    [
        (V1_UNSIGNED, {"verify": True}),
        (UNSIGNED, {"verify": True, "accept_iv_reuse": True}),
        (UNSIGNED, {}),
        (UNSIGNED, {"keep": True}),
    ],
    ids=["v1", "v2", "anew", "anew with the same data key"],
)
async def test_a_damaged_body_is_an_error_and_makes_no_message(
    damage: Damaged, error: type[Exception], suite: AlgorithmSuite, options: dict[str, Any]
) -> None:
    message = damage(await message_of(suite, PLAINTEXT))
    made: list[bytes] = []
    with pytest.raises(error):
        await collect(rewrapping(message, suite, **options), made)
    with pytest.raises(TruncatedMessageError):
        await client_for(suite).decrypt(b"".join(made), NEW)
    assert_idle()


@damages
async def test_a_body_that_is_not_verified_is_passed_on_as_it_is(
    damage: Damaged, error: type[Exception]
) -> None:
    message = damage(await message_of(V1_UNSIGNED, PLAINTEXT))
    new = await rewrapped(message, V1_UNSIGNED)
    with pytest.raises(error):
        await client_for(V1_UNSIGNED).decrypt(new, NEW)


async def test_a_wrong_signature_makes_no_message() -> None:
    message = flipped(await message_of(SIGNED, PLAINTEXT), -1)
    made: list[bytes] = []
    with pytest.raises(SignatureError):
        await collect(rewrapping(message, SIGNED), made)
    with pytest.raises(TruncatedMessageError):
        await client_for(SIGNED).decrypt(b"".join(made), NEW)


async def test_a_damaged_header_is_an_error_on_entry() -> None:
    for suite in (V1_UNSIGNED, UNSIGNED, SIGNED):
        message = await message_of(suite, PLAINTEXT)
        length = (await inspect_message(message)).header_length
        with pytest.raises(TagError):
            await rewrapping(flipped(message, length - 1), suite).__aenter__()
