"""Amazon S3 and compatible stores: encrypt objects while writing, and decrypt them while reading.

Clients come from aiobotocore, or have the same methods. They belong to the caller and stay open.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

import attrs

from aioencrypt.client import (
    DEFAULT_CACHE_LENGTH,
    DEFAULT_CONCURRENCY,
    EncryptionClient,
    Provider,
)
from aioencrypt.format import AlgorithmSuite, MessageHeader
from aioencrypt.integrations.s3.client import (
    Checksum,
    GetArguments,
    PutArguments,
    S3Call,
    S3Client,
    UploadTarget,
    check_extra,
    checked_checksum,
)
from aioencrypt.integrations.s3.ranges import ObjectRanges, ObjectReader, StoredObject
from aioencrypt.integrations.s3.rewrap import Original, write_rewrapped
from aioencrypt.integrations.s3.upload import (
    DEFAULT_PART_LENGTH,
    MAX_PART_LENGTH,
    MIN_PART_LENGTH,
    part_lengths,
    upload,
)
from aioencrypt.policies import Limits, Release, SignaturePolicy
from aioencrypt.providers.base import MasterKeyProvider
from aioencrypt.providers.values import Provenance
from aioencrypt.rewrap import Keep, RewrapStream, rewrap_options
from aioencrypt.runtime.arguments import check_int, check_type
from aioencrypt.runtime.secrets import hides_arguments
from aioencrypt.streams.decrypt import DecryptStream
from aioencrypt.streams.seekable import SeekableDecryptStream
from aioencrypt.streams.sources import Source

__all__ = [
    "Checksum",
    "GetArguments",
    "PutArguments",
    "PutResult",
    "RewrapObjectResult",
    "S3Call",
    "S3Client",
    "S3RangeSource",
    "open_encrypted",
    "open_seekable_encrypted",
    "put_encrypted",
    "rewrap_encrypted",
]

DEFAULT_TIMEOUT = 300.0


@attrs.frozen(kw_only=True)
class PutResult:
    """The result of writing an object: the header of the message, and the answer of S3.

    `parts` is 1 if one request wrote the object. `ciphertext_length` is the length of the object in bytes.
    `version_id` is None if the bucket has no versioning.
    """

    header: MessageHeader
    provenance: Provenance
    etag: str
    version_id: str | None
    parts: int
    ciphertext_length: int


@attrs.frozen(kw_only=True)
class RewrapObjectResult:
    """The result of rewrapping an object.

    `reencrypted` tells whether its body was encrypted again. `copied_length` is the number of bytes that S3
    copied itself, so that they were neither read nor sent. Other attributes: see `PutResult`.
    """

    header: MessageHeader
    reencrypted: bool
    copied_length: int
    etag: str
    version_id: str | None
    parts: int
    ciphertext_length: int


@hides_arguments
async def put_encrypted(
    client: S3Client,
    bucket: str,
    key: str,
    source: Source,
    provider: Provider,
    *,
    encryption_context: Mapping[str, str] | None = None,
    algorithm_suite: AlgorithmSuite | None = None,
    frame_length: int | None = None,
    plaintext_length: int | None = None,
    plaintext_length_bound: int | None = None,
    metadata: Mapping[str, str] | None = None,
    tagging: Mapping[str, str] | None = None,
    content_type: str | None = None,
    extra: PutArguments | None = None,
    checksum: Checksum | None = "CRC32",
    part_length: int = DEFAULT_PART_LENGTH,
    equal_parts: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    timeout: float | None = DEFAULT_TIMEOUT,
    encryption_client: EncryptionClient | None = None,
) -> PutResult:
    """Encrypt a source into an object, which appears complete or not at all.

    An object of one part is written by one request, a longer one by a multipart upload, which is aborted on
    any error or cancellation. `part_length`: bytes of a part, 5 MiB to 5 GiB; parts grow if there would be
    more than 10,000. `equal_parts`: all parts but the last have the same length, as Cloudflare R2 requires;
    then an object of unknown length has at most 10,000 times `part_length` bytes, and a longer one raises
    `StreamError`. `concurrency`: the number of parts in memory and in flight. `metadata`, `tagging`,
    `content_type` and the arguments in `extra` are stored with the object in the clear. `checksum`: the
    checksum that S3 verifies for each request; None leaves it to the client. `timeout`: seconds for each
    call of S3, including the client's retries.

    Raises `ValueError` and `TypeError` for wrong arguments, the errors of the source, `ServiceError`, and
    `ProviderError` and `PolicyError` like `encrypt_stream`, which describes the other arguments.
    """
    target = UploadTarget(
        client=client,
        bucket=bucket,
        key=key,
        arguments=_put_arguments(metadata, tagging, content_type, extra),
        checksum=checked_checksum(checksum),
        timeout=timeout,
    )
    _check_upload(part_length, concurrency, equal_parts)
    stream = (encryption_client or EncryptionClient()).encrypt_stream(
        source,
        provider,
        encryption_context=encryption_context,
        algorithm_suite=algorithm_suite,
        frame_length=frame_length,
        plaintext_length=plaintext_length,
        plaintext_length_bound=plaintext_length_bound,
    )
    async with stream:
        lengths = part_lengths(part_length, stream.ciphertext_length, equal=equal_parts)
        written = await upload(target, stream, lengths=lengths, concurrency=concurrency)
    return PutResult(
        header=stream.header,
        provenance=stream.provenance,
        etag=written.etag,
        version_id=written.version_id,
        parts=written.parts,
        ciphertext_length=written.length,
    )


def _put_arguments(
    metadata: Mapping[str, str] | None,
    tagging: Mapping[str, str] | None,
    content_type: str | None,
    extra: PutArguments | None,
) -> dict[str, object]:
    arguments: dict[str, object] = check_extra("extra", extra, PutArguments)
    if metadata is not None:
        arguments["Metadata"] = _check_texts("metadata", metadata)
    if tagging is not None:
        arguments["Tagging"] = urlencode(_check_texts("tagging", tagging))
    if content_type is not None:
        arguments["ContentType"] = content_type
    return arguments


def _check_texts(name: str, texts: Mapping[str, str]) -> dict[str, str]:
    check_type(name, texts, Mapping)  # type: ignore[type-abstract]
    for key, value in texts.items():
        check_type(f"a name in {name}", key, str)
        check_type(f"{name}[{key!r}]", value, str)
    return dict(texts)


def _check_upload(part_length: int, concurrency: int, equal_parts: bool) -> None:
    if not MIN_PART_LENGTH <= check_type("part_length", part_length, int) <= MAX_PART_LENGTH:
        raise ValueError(
            f"part_length is {part_length}; S3 takes parts of {MIN_PART_LENGTH} to {MAX_PART_LENGTH} bytes"
        )
    check_int("concurrency", concurrency, 1)
    check_type("equal_parts", equal_parts, bool)


@hides_arguments
def open_encrypted(
    client: S3Client,
    bucket: str,
    key: str,
    provider: Provider,
    *,
    version_id: str | None = None,
    encryption_context: Mapping[str, str] | None = None,
    signature_policy: SignaturePolicy = SignaturePolicy.ALLOW,
    limits: Limits | None = None,
    release: Release = Release.STREAM,
    extra: GetArguments | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    encryption_client: EncryptionClient | None = None,
) -> DecryptStream:
    """Return a stream of the plaintext of an object; enter it with `async with`.

    It reads ranges of 1 to 4 MiB and fetches two of them ahead: at most 12 MiB in memory. No connection stays
    open between two reads, so a pool of one is enough to read one object and write another. A lost connection
    is replaced. If the object changed in the meantime, reading fails with `ServiceError` and the code
    ``"PreconditionFailed"``. `timeout`: seconds for each call of S3, and for each read of its answer.

    Raises `ServiceError` on entry and from reads. Other arguments and errors: `decrypt_stream`.
    """
    stored = StoredObject(
        client,
        bucket,
        key,
        version_id=version_id,
        arguments=check_extra("extra", extra, GetArguments),
        timeout=timeout,
    )
    options = (encryption_client or EncryptionClient()).decrypt_options(
        provider,
        encryption_context=encryption_context,
        signature_policy=signature_policy,
        limits=limits,
        release=release,
    )
    return DecryptStream(ObjectReader(stored), options)


class S3RangeSource(ObjectRanges):
    """A `RangeSource` of one version of an object, for everything that reads parts of a message.

    Give it to `aioencrypt.open_seekable`, `inspect_message`, or a `DecryptedResponse` that answers `Range`
    requests. The first answer pins the ETag; if the object changes after that, reads fail with `ServiceError`
    and the code ``"PreconditionFailed"``. Lost connections are replaced. Arguments: `open_encrypted`.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        key: str,
        *,
        version_id: str | None = None,
        extra: GetArguments | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> None:
        arguments = check_extra("extra", extra, GetArguments)
        super().__init__(
            StoredObject(client, bucket, key, version_id=version_id, arguments=arguments, timeout=timeout)
        )


@hides_arguments
def open_seekable_encrypted(
    client: S3Client,
    bucket: str,
    key: str,
    provider: Provider,
    *,
    version_id: str | None = None,
    encryption_context: Mapping[str, str] | None = None,
    accept_unverified_signature: bool = False,
    limits: Limits | None = None,
    cache_length: int = DEFAULT_CACHE_LENGTH,
    concurrency: int = DEFAULT_CONCURRENCY,
    extra: GetArguments | None = None,
    timeout: float | None = DEFAULT_TIMEOUT,
    encryption_client: EncryptionClient | None = None,
) -> SeekableDecryptStream:
    """Return an object with random access; enter it with `async with`.

    Ranges are fetched on demand; consecutive reads fetch further and further ahead. If the object changed
    since entry, reads fail like those of `open_encrypted`.

    Raises `ServiceError` on entry and from reads. Other arguments and errors: `open_seekable`.
    """
    source = S3RangeSource(client, bucket, key, version_id=version_id, extra=extra, timeout=timeout)
    return (encryption_client or EncryptionClient()).open_seekable(
        source,
        provider,
        encryption_context=encryption_context,
        accept_unverified_signature=accept_unverified_signature,
        limits=limits,
        cache_length=cache_length,
        concurrency=concurrency,
    )


@hides_arguments
async def rewrap_encrypted(
    client: S3Client,
    bucket: str,
    key: str,
    provider: Provider,
    *,
    new_provider: MasterKeyProvider | None = None,
    keep: Keep = False,
    version_id: str | None = None,
    encryption_context: Mapping[str, str] | None = None,
    reencrypt: bool = True,
    accept_iv_reuse: bool = False,
    verify: bool = False,
    extra: PutArguments | None = None,
    checksum: Checksum | None = "CRC32",
    part_length: int = DEFAULT_PART_LENGTH,
    equal_parts: bool = False,
    concurrency: int = DEFAULT_CONCURRENCY,
    timeout: float | None = DEFAULT_TIMEOUT,
    encryption_client: EncryptionClient | None = None,
) -> RewrapObjectResult:
    """Put an object under other master keys, in its own place.

    Where a new header is enough and the object is longer than `part_length`, S3 copies all but the first
    5 MiB (all but the first part with `equal_parts`). Otherwise the object is read and written once.
    Metadata, tags, storage class and the encryption by S3 stay, unless `extra` says otherwise; access control
    lists and locks do not. An object that changed since it was opened is not replaced: `ServiceError` with
    the code ``"PreconditionFailed"``. A `version_id` is read, and written as the newest version.

    Other arguments and errors: `rewrap_stream` and `put_encrypted`.
    """
    arguments = check_extra("extra", extra, PutArguments)
    checksum = checked_checksum(checksum)
    _check_upload(part_length, concurrency, equal_parts)
    options = rewrap_options(
        provider,
        new_provider,
        keep,
        encryption_context,
        reencrypt=reencrypt,
        accept_iv_reuse=accept_iv_reuse,
        encryption_client=encryption_client,
    )
    original = Original.of(client, bucket, key, version_id=version_id, extra=arguments, timeout=timeout)
    async with RewrapStream(ObjectReader(original.stored), options, verify=verify) as stream:
        target = UploadTarget(
            client=client,
            bucket=bucket,
            key=key,
            arguments=await original.arguments(),
            checksum=checksum,
            timeout=timeout,
        )
        written, copied = await write_rewrapped(
            target,
            stream,
            original,
            copy=not verify,
            part_length=part_length,
            equal_parts=equal_parts,
            concurrency=concurrency,
        )
    return RewrapObjectResult(
        header=stream.header,
        reencrypted=stream.reencrypted,
        copied_length=copied,
        etag=written.etag,
        version_id=written.version_id,
        parts=written.parts,
        ciphertext_length=written.length,
    )
