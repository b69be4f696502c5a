"""The encrypted file system as a type checker sees it: the rules of this file are those of `api.py`."""

from __future__ import annotations

from typing import assert_type

from aioencrypt import AlgorithmSuite, EncryptionClient, KMSMasterKeyProvider, RawAESMasterKey
from aioencrypt.inspection import MessageInspection
from aioencrypt.integrations.fsspec import EncryptedFileSystem, FileReplacedError, GivenProvider
from aioencrypt.rewrap import RewrapResult
from aioencrypt.streams import MessageSink

key = RawAESMasterKey("tests", "typing", wrapping_key=bytes(32))


def make_provider() -> KMSMasterKeyProvider:
    return KMSMasterKeyProvider(["alias/reports"])


def construction() -> None:
    EncryptedFileSystem(provider=key, target_protocol="file")
    EncryptedFileSystem(provider=make_provider, target_protocol="s3", target_options={"profile": "x"})
    EncryptedFileSystem(provider="package.module:name", fs=object(), asynchronous=True, sizes=False)
    EncryptedFileSystem(
        provider=key,
        target_protocol="memory",
        encryption_context={"tenant": "42"},
        algorithm_suite=AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length=65536,
        plaintext_length_bound=100,
        accept_unverified_signature=True,
        encryption_client=EncryptionClient(),
    )
    EncryptedFileSystem(provider=5, target_protocol="file")  # type: ignore[arg-type]
    EncryptedFileSystem(provider=lambda: 5, target_protocol="file")  # type: ignore[arg-type]
    EncryptedFileSystem(key)  # type: ignore[call-arg]
    EncryptedFileSystem(provider=key, frame=1)  # type: ignore[call-arg]


def use(fs: EncryptedFileSystem) -> None:
    assert_type(fs.inspect("path"), MessageInspection)
    assert_type(fs.rewrap("path", fs, keep=True), RewrapResult)
    fs.rewrap("path", key)  # type: ignore[arg-type]
    fs.close()


async def use_async(fs: EncryptedFileSystem) -> None:
    async with fs as entered:
        assert_type(entered, EncryptedFileSystem)
    await fs.open_provider()
    await fs.aclose()


def errors_and_options(error: FileReplacedError) -> list[GivenProvider]:
    as_os_error: OSError = error
    assert_type(as_os_error.errno, int | None)
    return [key, make_provider, "package.module:name"]


class Sink:
    def create(self) -> None: ...
    def write(self, data: bytes, /) -> None: ...
    def commit(self) -> None: ...
    def drop(self) -> None: ...


def sinks(client: EncryptionClient) -> None:
    sink: MessageSink = Sink()
    client.open(sink, "wb", provider=key)
    client.open(sink, "rb", provider=key)  # type: ignore[call-overload]
