"""Which keys generated, wrapped or unwrapped a data key: results and streams say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import attrs
import pytest

import aioencrypt
from aioencrypt import (
    CachingCMM,
    DefaultCMM,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKeyProvider,
    MultiMasterKeyProvider,
    Provenance,
    Provider,
    ProviderError,
    RawAESMasterKey,
    StreamNotEnteredError,
    TagError,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
)
from aioencrypt.materials import (
    CryptographicMaterialsManager,
    DataKey,
    DataKeyRequest,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptedDataKey,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    KeyUse,
)
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import EU, US, key_arns
from tests.support.messages import build_message
from tests.support.providers import OwnKey
from tests.support.streaming import UNSIGNED, flipped, in_chunks, sealed
from tests.support.watching import CountingKey

pytestmark = pytest.mark.anyio

AES = RawAESMasterKey("places", "first", wrapping_key=bytes(32))
OTHER_AES = RawAESMasterKey("places", "second", wrapping_key=bytes(range(32)))


class Cached:
    """A manager of a user that remembers one answer for each direction."""

    def __init__(self, manager: CryptographicMaterialsManager) -> None:
        self._manager = manager
        self._encryption: EncryptionMaterials | None = None
        self._decryption: DecryptionMaterials | None = None

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        if self._encryption is None:
            self._encryption = await self._manager.get_encryption_materials(request)
            return self._encryption
        return attrs.evolve(
            self._encryption, provenance=attrs.evolve(self._encryption.provenance, cached=True)
        )

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        if self._decryption is None:
            self._decryption = await self._manager.decrypt_materials(request)
            return self._decryption
        return attrs.evolve(
            self._decryption, provenance=attrs.evolve(self._decryption.provenance, cached=True)
        )


class Silent:
    """A manager of a user from before there was provenance."""

    def __init__(self, manager: CryptographicMaterialsManager) -> None:
        self._manager = manager

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        given = await self._manager.get_encryption_materials(request)
        return EncryptionMaterials(
            algorithm_suite=given.algorithm_suite,
            data_key=given.data_key,
            encrypted_data_keys=given.encrypted_data_keys,
            encryption_context=given.encryption_context,
            signer=given.signer,
        )

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        given = await self._manager.decrypt_materials(request)
        return DecryptionMaterials(
            algorithm_suite=given.algorithm_suite,
            data_key=given.data_key,
            encryption_context=given.encryption_context,
            verification_key=given.verification_key,
        )


async def encrypted(provider: Provider, path: Path) -> tuple[bytes, Provenance]:
    """Encrypt in each of the four ways; all must say the same."""
    message, header = result = await encrypt(b"secret", provider, algorithm_suite=UNSIGNED)
    seen = [result.provenance]
    piecewise = await encrypt(in_chunks(b"secret", 4), provider, algorithm_suite=UNSIGNED)
    seen.append(piecewise.provenance)
    async with encrypt_stream(b"secret", provider, algorithm_suite=UNSIGNED) as stream:
        seen.append(stream.provenance)
        await stream.read()
    async with aioencrypt.open(path, "wb", provider=provider, algorithm_suite=UNSIGNED) as writer:
        seen.append(writer.provenance)
    assert seen == [seen[0]] * 4
    # as many uses as encrypted data keys, in their order
    assert len(seen[0].keys) in (0, len(header.encrypted_data_keys))
    return message, seen[0]


async def decrypted(message: bytes, provider: Provider, path: Path) -> Provenance:
    """Decrypt in each of the four ways; all must say the same."""
    await anyio.Path(path).write_bytes(message)
    seen = [(await decrypt(message, provider)).provenance]
    seen.append((await decrypt(in_chunks(message, 40), provider)).provenance)
    async with decrypt_stream(message, provider) as stream:
        seen.append(stream.provenance)
        await stream.read()
        assert stream.provenance is seen[-1]
    async with aioencrypt.open(path, "rb", provider=provider) as stream:
        seen.append(stream.provenance)
        await stream.read()
    assert seen == [seen[0]] * 4
    return seen[0]


async def test_one_local_key(tmp_path: Path) -> None:
    message, written = await encrypted(AES, tmp_path / "file")
    assert written == Provenance(keys=(KeyUse("generate", "places", "first"),), cached=False)
    read = await decrypted(message, AES, tmp_path / "file")
    assert read == Provenance(keys=(KeyUse("decrypt", "places", "first"),), cached=False)


async def test_all_keys_of_a_message_in_the_order_of_its_data_keys(tmp_path: Path) -> None:
    third = OwnKey("third")
    provider = MultiMasterKeyProvider(AES, MultiMasterKeyProvider(OTHER_AES, third))
    message, written = await encrypted(provider, tmp_path / "file")
    assert written.keys == (
        KeyUse("generate", "places", "first"),
        KeyUse("encrypt", "places", "second"),
        KeyUse("encrypt", "own", "third"),
    )
    for key, use in ((AES, "first"), (OTHER_AES, "second"), (provider, "first")):
        read = await decrypted(message, key, tmp_path / "file")
        assert read.keys == (KeyUse("decrypt", "places", use),)
    assert (await decrypt(message, third)).provenance.keys == (KeyUse("decrypt", "own", "third"),)


async def test_only_the_key_that_opened_shows_whatever_failed_before(tmp_path: Path) -> None:
    log: list[str] = []
    broken = OwnKey("a", log, error=ValueError("out of order"))
    keys = MultiMasterKeyProvider(OwnKey("a"), OwnKey("b"), OwnKey("c"))
    message, _ = await encrypt(b"secret", keys)
    other = RawAESMasterKey("own", "b", wrapping_key=bytes(32))
    provider = MultiMasterKeyProvider(None, broken, other, OwnKey("c", log))
    read = await decrypted(message, provider, tmp_path / "file")
    assert read == Provenance((KeyUse("decrypt", "own", "c"),))
    assert log == ["decrypt a", "decrypt c"] * 4


async def test_keys_of_kms(tmp_path: Path) -> None:
    kms = InMemoryKMS()
    first, second = kms.create_key(region=US), kms.create_key(region=EU)
    kms.create_alias("alias/first", first)
    alias = first.replace(first.split(":")[-1], "alias/first")
    provider = KMSMasterKeyProvider([alias, second], connection=kms.connection(US, EU))
    message, written = await encrypted(provider, tmp_path / "file")
    # the name that was given; the header has the ARN that it stands for
    assert written.keys == (KeyUse("generate", "aws-kms", alias), KeyUse("encrypt", "aws-kms", second))
    assert key_arns((await decrypt(message, provider)).header) == [first, second]
    assert (await decrypted(message, provider, tmp_path / "file")).keys == (
        KeyUse("decrypt", "aws-kms", second),
    )
    kms.disable_key(first)
    discovery = KMSDiscoveryMasterKeyProvider(discovery_filter=None, connection=kms.connection(US, EU))
    assert (await decrypted(message, discovery, tmp_path / "file")).keys == (
        KeyUse("decrypt", "aws-kms", second),
    )


async def test_a_replica_that_opens_is_the_key_that_shows(tmp_path: Path) -> None:
    kms = InMemoryKMS()
    primary = kms.create_key(region=US, multi_region=True)
    replica = kms.replicate_key(primary, region=EU)
    message, _ = await encrypt(b"secret", KMSMasterKeyProvider([primary], connection=kms.connection(US)))
    provider = KMSMasterKeyProvider([replica], connection=kms.connection(EU))
    read = await decrypted(message, provider, tmp_path / "file")
    assert read.keys == (KeyUse("decrypt", "aws-kms", replica),)


async def test_answers_of_a_cache_say_so() -> None:
    manager = Cached(DefaultCMM(AES))
    results = [await encrypt(b"secret", manager, algorithm_suite=UNSIGNED) for _ in range(3)]
    generated = (KeyUse("generate", "places", "first"),)
    assert [result.provenance for result in results] == [
        Provenance(generated),
        Provenance(generated, cached=True),
        Provenance(generated, cached=True),
    ]
    read = [(await decrypt(result.ciphertext, manager)).provenance for result in results]
    used = (KeyUse("decrypt", "places", "first"),)
    assert read == [Provenance(used), Provenance(used, cached=True), Provenance(used, cached=True)]
    async with decrypt_stream(results[0].ciphertext, manager) as stream:
        assert stream.provenance.cached
        assert await stream.read() == b"secret"


async def test_the_caching_manager_says_when_its_cache_answered() -> None:
    provider = MultiMasterKeyProvider(AES, OTHER_AES)
    made = (KeyUse("generate", "places", "first"), KeyUse("encrypt", "places", "second"))
    read = (KeyUse("decrypt", "places", "first"),)
    async with CachingCMM(provider, max_age=60) as manager:
        results = [await encrypt(b"secret", manager) for _ in range(3)]
        seen = [result.provenance for result in results]
        assert seen == [Provenance(made), *[Provenance(made, cached=True)] * 2]
        # one data key for all of them
        opened = [(await decrypt(result.ciphertext, manager)).provenance for result in results]
        assert opened == [Provenance(read), *[Provenance(read, cached=True)] * 2]
        # another context, another data key
        result = await encrypt(b"secret", manager, encryption_context={"tenant": "42"})
        assert result.provenance == Provenance(made)


async def test_a_manager_that_does_not_say_leaves_it_empty(tmp_path: Path) -> None:
    manager = Silent(DefaultCMM(AES))
    message, written = await encrypted(manager, tmp_path / "file")
    assert written == Provenance() == Provenance(keys=(), cached=False)
    assert await decrypted(message, manager, tmp_path / "file") == Provenance()


async def test_results_are_still_pairs() -> None:
    result = await encrypt(b"secret", AES)
    assert result == (result.ciphertext, result.header)
    assert len(result) == 2
    assert not hasattr(result, "__iadd__")
    with pytest.raises(AttributeError):
        result.provenance = Provenance()  # type: ignore[misc]


async def test_streams_do_not_say_before_they_are_entered(tmp_path: Path) -> None:
    message = await sealed(b"secret")
    for stream in (encrypt_stream(b"secret", AES), decrypt_stream(message, AES)):
        with pytest.raises(StreamNotEnteredError, match="the stream is not open: use it in `async with`"):
            _ = stream.provenance
    writer = aioencrypt.open(tmp_path / "file", "wb", provider=AES)
    with pytest.raises(StreamNotEnteredError, match="the writer is not open: use it in `async with`"):
        _ = writer.provenance


async def test_a_stream_whose_header_fails_says_nothing() -> None:
    """The key that opened it may be anybody's as long as the header is not verified."""
    message = build_message(UNSIGNED, b"secret")
    stream = decrypt_stream(flipped(message.data, message.header_length - 1), CountingKey())
    with pytest.raises(TagError):
        await stream.__aenter__()
    with pytest.raises(StreamNotEnteredError):
        _ = stream.provenance


async def test_a_key_that_gives_a_wrong_length_does_not_show() -> None:
    message, _ = await encrypt(b"secret", MultiMasterKeyProvider(OwnKey("a"), OwnKey("b")))

    class Short(OwnKey):
        async def unwrap_data_key(
            self,
            encrypted_data_key: EncryptedDataKey,
            request: DataKeyRequest,
        ) -> DataKey:
            return DataKey(bytes(16))

    keys: Sequence[OwnKey] = [Short("a"), OwnKey("b")]
    result = await decrypt(message, MultiMasterKeyProvider(None, *keys))
    assert result.provenance.keys == (KeyUse("decrypt", "own", "b"),)
    with pytest.raises(ProviderError, match="the data key has 16 bytes"):
        await decrypt(message, keys[0])


def test_nothing_but_names_is_in_it() -> None:
    use = KeyUse("decrypt", "places", "first")
    assert repr(Provenance((use,), cached=True)) == (
        "Provenance(keys=(KeyUse(operation='decrypt', provider_id='places', key_id='first'),), cached=True)"
    )
    assert attrs.asdict(use) == {"operation": "decrypt", "provider_id": "places", "key_id": "first"}
    assert hash(Provenance((use,))) == hash(Provenance((KeyUse("decrypt", "places", "first"),)))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        use.key_id = "second"  # type: ignore[misc]
