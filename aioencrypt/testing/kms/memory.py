"""An in-memory AWS KMS for tests, with real cryptography and real permissions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import anyio
import attrs
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from aioencrypt.aws.connection import AWSConnection
from aioencrypt.runtime.threads import ThreadLock
from aioencrypt.testing.kms.asymmetric import KEY_SPECS, KeySpec
from aioencrypt.testing.kms.client import InMemoryKMSClient
from aioencrypt.testing.kms.errors import InMemoryKMSError, Refusal, service_error
from aioencrypt.testing.kms.faults import Faults
from aioencrypt.testing.kms.keys import GRANTABLE, PERMISSIONS, KeyStore, check_region
from aioencrypt.testing.kms.operations import OPERATIONS, perform
from aioencrypt.testing.kms.requests import Request

__all__ = ["InMemoryKMS", "InMemoryKMSClient", "InMemoryKMSError", "KMSCall"]


def _show_names(context: Mapping[str, str]) -> str:
    return f"<names: {sorted(context, key=str)}>"


@attrs.frozen
class KMSCall:
    """One request to the in-memory KMS, including those that failed in an outage.

    `operation` is AWS's name. `key_id`, `encryption_context` and `grant_tokens` are as the caller sent
    them, valid or not; for ReEncrypt, those of the destination. `error` is the error code,
    `"ConnectionError"` for an outage, None for success. The `repr` shows the keys of the encryption
    context, not the values.
    """

    operation: str
    region: str
    key_id: str | None
    encryption_context: Mapping[str, str] = attrs.field(repr=_show_names)
    grant_tokens: tuple[str, ...] = attrs.field(repr=False)
    error: str | None


class InMemoryKMS:
    """AWS KMS without AWS: keys of any account and region, and a client for each region.

        kms = InMemoryKMS()
        key_arn = kms.create_key(region="eu-west-1")
        client = kms.client("eu-west-1")
        answer = await client.generate_data_key(KeyId=key_arn, NumberOfBytes=32)

    The methods of this class are synchronous, take effect immediately, may be called from any thread, and
    are neither logged nor subject to faults. They take the full ARN of a key; an unknown key raises
    `InMemoryKMSError` with NotFoundException.

    `account` is the account of the caller: key ids and aliases without an ARN are looked up there. Every
    caller may use every key, including those of other accounts, unless `deny()` forbids it.

    `latency` delays every answer, in seconds. A request takes effect before the delay, so a caller that is
    cancelled while waiting has made the call. `clock` returns seconds since the epoch, for the dates of
    keys.
    """

    def __init__(
        self,
        *,
        account: str = "111122223333",
        partition: str = "aws",
        latency: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._lock = ThreadLock()
        self._store = KeyStore(account=account, partition=partition, clock=clock or time.time)
        self._faults = Faults()
        self._calls: list[KMSCall] = []
        self.latency = latency

    @property
    def latency(self) -> float:
        """Seconds between a request and its answer."""
        return self._latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"latency must be a number of seconds, not {seconds!r}")
        self._latency = seconds

    # Keys

    def create_key(
        self,
        *,
        region: str = "us-east-1",
        account: str | None = None,
        multi_region: bool = False,
        key_id: str | None = None,
        key_spec: str = "SYMMETRIC_DEFAULT",
        key_usage: str | None = None,
        private_key: RSAPrivateKey | EllipticCurvePrivateKey | bytes | None = None,
    ) -> str:
        """Create a key and return its ARN.

        `key_id` is random by default; ids that start with `mrk-` are for multi-Region keys only. `key_spec`
        may also be RSA_2048, RSA_3072 or RSA_4096 (usage ENCRYPT_DECRYPT), ECC_NIST_P256, ECC_NIST_P384 or
        ECC_NIST_P521 (usage KEY_AGREEMENT); `key_usage` must match. `private_key`, a key object or
        unencrypted PEM, replaces a new key pair.

        Raises `ValueError` for arguments that AWS does not allow, and AlreadyExistsException for a second
        key with the same ARN or, for multi-Region keys, the same id.
        """
        spec = _key_spec(key_spec, key_usage)
        with self._named("CreateKey"):
            record = self._store.create(
                region=region,
                account=account,
                multi_region=multi_region,
                key_id=key_id,
                spec=spec,
                private_key=private_key,
            )
            return record.arn

    def replicate_key(self, key_arn: str, region: str) -> str:
        """Replicate a primary multi-Region key to a region and return the ARN there.

        Raises AlreadyExistsException the second time, UnsupportedOperationException for any other key.
        """
        with self._named("ReplicateKey"):
            return self._store.replicate(self._store.by_arn(key_arn), region).arn

    def create_alias(self, alias_name: str, key_arn: str) -> None:
        """Name a key `alias/...` in its own account and region."""
        with self._named("CreateAlias"):
            self._store.create_alias(alias_name, self._store.by_arn(key_arn))

    def delete_alias(self, alias_name: str, *, region: str = "us-east-1", account: str | None = None) -> None:
        """Remove an alias; the caller's account unless another is given."""
        with self._named("DeleteAlias"):
            self._store.delete_alias(alias_name, region, account)

    def disable_key(self, key_arn: str) -> None:
        """Disable a key: DisabledException from now on."""
        with self._named("DisableKey"):
            self._store.set_enabled(self._store.by_arn(key_arn), False)

    def enable_key(self, key_arn: str) -> None:
        """Enable a disabled key again."""
        with self._named("EnableKey"):
            self._store.set_enabled(self._store.by_arn(key_arn), True)

    def schedule_key_deletion(self, key_arn: str, *, days: int = 30) -> None:
        """Make a key unusable: KMSInvalidStateException, and NotFoundException after `days` of the clock."""
        with self._named("ScheduleKeyDeletion"):
            self._store.schedule_deletion(self._store.by_arn(key_arn), days)

    def cancel_key_deletion(self, key_arn: str) -> None:
        """Cancel the deletion of a key. As in AWS, the key is disabled afterwards."""
        with self._named("CancelKeyDeletion"):
            self._store.cancel_deletion(self._store.by_arn(key_arn))

    # Permissions

    def deny(self, key_arn: str, *operations: str) -> None:
        """Deny operations on a key, all if none is named: AccessDeniedException.

        They are named as permissions are, without `kms:`; those of ReEncrypt are `ReEncryptFrom` and
        `ReEncryptTo`. Raises `ValueError` for an unknown name.
        """
        _check_names(operations, PERMISSIONS)
        with self._named("PutKeyPolicy"):
            self._store.by_arn(key_arn).denied.update(operations or PERMISSIONS)

    def allow(self, key_arn: str, *operations: str) -> None:
        """Undo denials; all of them if no operation is named."""
        _check_names(operations, PERMISSIONS)
        with self._named("PutKeyPolicy"):
            self._store.by_arn(key_arn).denied.difference_update(operations or PERMISSIONS)

    def create_grant(self, key_arn: str, *operations: str) -> str:
        """Return a grant token, with which denied operations are allowed for this key."""
        if not operations:
            raise ValueError("a grant allows at least one operation")
        _check_names(operations, GRANTABLE)
        with self._named("CreateGrant"):
            return self._store.create_grant(self._store.by_arn(key_arn), operations)

    def expire_credentials(self) -> None:
        """Answer every request with ExpiredTokenException."""
        with self._lock:
            self._faults.credentials_expired = True

    def renew_credentials(self) -> None:
        """Undo `expire_credentials()`."""
        with self._lock:
            self._faults.credentials_expired = False

    # Faults

    def fail_next(
        self,
        code: str,
        *,
        times: int = 1,
        operation: str | None = None,
        region: str | None = None,
        message: str = "injected by fail_next",
    ) -> None:
        """Make the next `times` requests fail with an error code, such as ThrottlingException.

        With `operation` or `region`, only such requests count. Several calls queue up. The HTTP status is
        that of AWS (KMSInternalException 500, DependencyTimeoutException 503), and 400 for other codes.
        """
        _check_names([operation] if operation is not None else [], OPERATIONS)
        with self._lock:
            self._faults.queue(code, message, times=times, operation=operation, region=region)

    def outage(self, region: str) -> None:
        """Make a region unreachable: `ConnectionError` in process, a dropped connection over HTTP."""
        check_region(region)
        with self._lock:
            self._faults.outages.add(region)

    def recover(self, region: str) -> None:
        """Undo `outage()`."""
        with self._lock:
            self._faults.outages.discard(region)

    def answer_next(self, operation: str, changes: Mapping[str, object], *, times: int = 1) -> None:
        """Change fields of the next successful answers of an operation; None removes a field."""
        _check_names([operation], OPERATIONS)
        with self._lock:
            self._faults.change(operation, changes, times=times)

    # The log

    @property
    def calls(self) -> list[KMSCall]:
        """A copy of the list of requests so far, in order of arrival."""
        with self._lock:
            return list(self._calls)

    def call_count(self, operation: str | None = None) -> int:
        """Return the number of requests, of one operation or of all."""
        _check_names([operation] if operation is not None else [], OPERATIONS)
        return sum(operation in (None, call.operation) for call in self.calls)

    def reset_calls(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._calls.clear()

    # Requests

    def client(self, region: str) -> InMemoryKMSClient:
        """Return a client for a region."""
        check_region(region)
        return InMemoryKMSClient(region, self.invoke)

    def clients(self, *regions: str) -> dict[str, InMemoryKMSClient]:
        """Return a client for each region."""
        return {region: self.client(region) for region in regions}

    def connection(self, *regions: str, timeout: float | None = 30.0) -> AWSConnection:
        """Return a connection with a client for each region."""
        return AWSConnection(kms=self.clients(*regions), timeout=timeout)

    async def invoke(self, region: str, operation: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        """Answer one request; the methods of clients and the HTTP server call this.

        `operation` and the names in `parameters` are AWS's; blobs are bytes, dates are `datetime`. Raises
        `InMemoryKMSError`, and `ConnectionError` in an outage.
        """
        outcome = self._arrive(Request(operation, region, parameters))
        await anyio.sleep(0 if isinstance(outcome, ConnectionError) else self.latency)
        if not isinstance(outcome, Exception):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # the traceback would keep itself alive by it

    def _arrive(self, request: Request) -> dict[str, Any] | InMemoryKMSError | ConnectionError:
        request_id = str(uuid.uuid4())
        outcome: dict[str, Any] | InMemoryKMSError | ConnectionError
        error = None
        with self._lock:
            try:
                self._faults.check(request)
                answer = perform(self._store, request)
                metadata = {"RequestId": request_id, "HTTPStatusCode": 200}
                outcome = self._faults.alter(request, answer) | {"ResponseMetadata": metadata}
            except Refusal as refusal:
                error = refusal.code
                outcome = service_error(refusal, request.operation, request_id)
            except ConnectionError as cut:
                error = "ConnectionError"
                outcome = cut.with_traceback(None)
            self._calls.append(_call(request, error))
        return outcome

    @contextmanager
    def _named(self, operation: str) -> Iterator[None]:
        """Hold the lock, and let what the store refuses be an error of this operation."""
        with self._lock:
            try:
                yield
            except Refusal as refusal:
                raise service_error(refusal, operation, str(uuid.uuid4())) from None


def _call(request: Request, error: str | None) -> KMSCall:
    prefix = "Destination" if request.operation == "ReEncrypt" else ""
    key_id = request.parameters.get(f"{prefix}KeyId")
    context = request.parameters.get(f"{prefix}EncryptionContext")
    tokens = request.parameters.get("GrantTokens")
    return KMSCall(
        operation=request.operation,
        region=request.region,
        key_id=key_id if isinstance(key_id, str) else None,
        encryption_context=MappingProxyType(dict(context) if isinstance(context, Mapping) else {}),
        grant_tokens=tuple(tokens) if isinstance(tokens, list | tuple) else (),
        error=error,
    )


def _key_spec(name: str, usage: str | None) -> KeySpec:
    _check_names([name], KEY_SPECS)
    spec = KEY_SPECS[name]
    if usage not in (None, spec.usage):
        raise ValueError(f"the key_usage of {name} is {spec.usage} here, not {usage!r}")
    return spec


def _check_names(names: Iterable[str], known: Iterable[str]) -> None:
    # A misspelt name would match nothing, and the test that uses it would pass for the wrong reason.
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(sorted(known))}")
