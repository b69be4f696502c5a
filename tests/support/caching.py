"""A clock that stands still, services and managers whose answers are held back, and requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import anyio
import attrs
from anyio.lowlevel import checkpoint

from aioencrypt import (
    AlgorithmSuite,
    AsyncCache,
    CommitmentPolicy,
    DefaultCMM,
    MasterKeyProvider,
    MessageHeader,
)
from aioencrypt.materials import (
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from tests.support.cancelling import settle
from tests.support.providers import CONTEXT, OwnKey

T = TypeVar("T")

FORBID, ALLOW, REQUIRE = CommitmentPolicy
NOT_COMMITTING = AlgorithmSuite.ALG_AES_256_GCM_IV12_TAG16_HKDF_SHA256
WITHOUT_KDF = [suite for suite in AlgorithmSuite if suite.kdf_hash is None]


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Service:
    """Answers calls with "value 1", "value 2", ... or with `error`.

    While `held`, a call waits until `release`; `waiting` is set as long as one does.
    """

    def __init__(self, *, held: bool = False, error: BaseException | None = None) -> None:
        self.calls = 0
        self.ended = 0
        self.error = error
        self.held = held
        self.waiting = anyio.Event()
        self._gate = anyio.Event()

    async def __call__(self) -> str:
        self.calls += 1
        number = self.calls
        try:
            await checkpoint()
            if self.held:
                self.waiting.set()
                await self._gate.wait()
            if self.error:
                raise self.error
            return f"value {number}"
        finally:
            self.ended += 1

    def release(self) -> None:
        """Let the calls that wait go on, and hold later ones."""
        self._gate.set()
        self._gate, self.waiting = anyio.Event(), anyio.Event()


async def at_once(count: int, function: Callable[[], Awaitable[T]]) -> list[T | BaseException]:
    """Call something in many tasks; return the results, and the errors as they came."""
    results: list[T | BaseException] = []

    async def one() -> None:
        try:
            results.append(await function())
        except Exception as error:
            results.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return results


async def turn_until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until something is so."""
    with anyio.fail_after(20):
        while not condition():
            await settle()


class Below:
    """The manager below a caching one: a default CMM that tells what it was asked.

    Its `gate` can hold requests up, `errors` is what the next ones raise. `suite` is chosen whatever
    is asked for.
    """

    def __init__(
        self, provider: MasterKeyProvider | None = None, *, suite: AlgorithmSuite | None = None
    ) -> None:
        self.inner = DefaultCMM(provider or OwnKey("a"))
        self.suite = suite
        self.asked: list[EncryptionMaterialsRequest | DecryptionMaterialsRequest] = []
        self.gate = Service()
        self.errors: list[Exception | None] = []

    @property
    def calls(self) -> int:
        return len(self.asked)

    async def get_encryption_materials(self, request: EncryptionMaterialsRequest) -> EncryptionMaterials:
        self.asked.append(request)
        await self._pass()
        if self.suite:
            policy = REQUIRE if self.suite.committing else FORBID
            request = attrs.evolve(request, algorithm_suite=self.suite, commitment_policy=policy)
        return await self.inner.get_encryption_materials(request)

    async def decrypt_materials(self, request: DecryptionMaterialsRequest) -> DecryptionMaterials:
        self.asked.append(request)
        await self._pass()
        return await self.inner.decrypt_materials(request)

    async def _pass(self) -> None:
        self.gate.error = self.errors.pop(0) if self.errors else None
        await self.gate()


class RecordingCache(AsyncCache[Any]):
    """Notes the keys that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    async def get(self, key: Hashable, *args: Any, **options: Any) -> tuple[Any, bool]:
        self.asked.append(key)
        return await super().get(key, *args, **options)


class CarelessCache(AsyncCache[Any]):
    """Goes by the identifier of the specification alone."""

    async def get(self, key: Any, *args: Any, **options: Any) -> tuple[Any, bool]:
        return await super().get(key[0], *args, **options)


def writing(
    length: int | None = 10,
    *,
    context: Mapping[str, str] = CONTEXT,
    suite: AlgorithmSuite | None = None,
    policy: CommitmentPolicy = REQUIRE,
    required: Iterable[str] = (),
) -> EncryptionMaterialsRequest:
    """Return a request for a message of so many bytes."""
    return EncryptionMaterialsRequest(
        commitment_policy=policy,
        encryption_context=context,
        algorithm_suite=suite,
        plaintext_length=length,
        required_encryption_context_keys=frozenset(required),
    )


def reading(
    of: EncryptionMaterials | MessageHeader,
    *,
    given: Mapping[str, str] | None = None,
    policy: CommitmentPolicy = ALLOW,
) -> DecryptionMaterialsRequest:
    """Return a request for a message that was written with these materials."""
    absent = of.required_encryption_context_keys if isinstance(of, EncryptionMaterials) else ()
    return DecryptionMaterialsRequest(
        algorithm_suite=of.algorithm_suite,
        commitment_policy=policy,
        encrypted_data_keys=of.encrypted_data_keys,
        encryption_context={k: v for k, v in of.encryption_context.items() if k not in absent},
        reproduced_encryption_context=given or {},
    )
