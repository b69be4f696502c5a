"""The multi provider: several providers as one.

Specification: framework/multi-keyring.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, final

from aioencrypt.errors import Attempt, AttemptLog, ProviderClosedError, ProviderError
from aioencrypt.providers.base import (
    DecryptedDataKey,
    MasterKey,
    MasterKeyProvider,
    check_opened,
    given_keys,
    no_data_key,
    provider_advice,
)
from aioencrypt.providers.values import DataKeyRequest
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.plugins import call_method
from aioencrypt.runtime.secrets import hides_arguments


@final
class MultiMasterKeyProvider(MasterKeyProvider):
    """Combine several providers, so that any one of them can decrypt the message.

    To encrypt, the `generator` creates the data key, and the keys of all children encrypt it, too. Decryption
    tries the generator first, then the children in order. With `generator=None` this provider decrypts, and
    encrypts only as a child of another one. `async with` enters and leaves all providers.

    Nested multi providers are flattened: this one holds their providers, in order.
    """

    @hides_arguments
    def __init__(self, generator: MasterKeyProvider | None, *children: MasterKeyProvider) -> None:
        if generator is None and not children:
            raise ValueError("a multi provider needs a generator or a child")
        providers: list[MasterKeyProvider] = []
        for provider in children if generator is None else (generator, *children):
            if not isinstance(provider, MasterKeyProvider):
                raise TypeError(
                    f"{describe_type(provider)} is not a MasterKeyProvider{provider_advice(provider)}"
                )
            inside = provider.providers if isinstance(provider, MultiMasterKeyProvider) else (provider,)
            providers += inside
        self._providers = tuple(providers)
        self._generates = generator is not None and (
            not isinstance(generator, MultiMasterKeyProvider) or generator.generates
        )
        self._stacks: list[AsyncExitStack] = []

    def __repr__(self) -> str:
        return f"MultiMasterKeyProvider({', '.join(map(repr, self._arguments))})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is not entered.
        return type(self), self._arguments

    @property
    def _arguments(self) -> tuple[MasterKeyProvider | None, ...]:
        return self._providers if self._generates else (None, *self._providers)

    @property
    def providers(self) -> tuple[MasterKeyProvider, ...]:
        """The generator, if any, and the children, in the order in which decryption tries them."""
        return self._providers

    @property
    def named_keys(self) -> Sequence[MasterKey]:
        return [key for provider in self._providers for key in provider.named_keys]

    @property
    def generates(self) -> bool:
        """Whether there is a generator."""
        return self._generates

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        if not self._generates:
            raise ProviderError("this multi provider has no generator, so it cannot generate a data key")
        keys: list[MasterKey] = []
        for provider in self._providers:
            given = await given_keys(provider, request)
            if not given:
                raise ProviderError(f"{provider!r} returned no master key to encrypt with")
            keys += given
        return keys

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        attempts = AttemptLog()
        for provider in self._providers:
            try:
                opened = await call_method(provider, "decrypt_data_key", request, kind=DecryptedDataKey)
                check_opened(provider, opened, request)
                return opened
            except ProviderClosedError:
                raise
            except Exception as error:
                _keep(attempts, provider, error)
        raise no_data_key(request, attempts, self)

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        async with stack:
            for provider in self._providers:
                await stack.enter_async_context(provider)
            self._stacks.append(stack.pop_all())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stacks:
            await self._stacks.pop().__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Leave every provider that `async with` entered."""
        while self._stacks:
            await self._stacks.pop().aclose()

    async def warm_up(self) -> None:
        for provider in self._providers:
            await provider.warm_up()


def _keep(attempts: AttemptLog, provider: MasterKeyProvider, error: Exception) -> None:
    """Record the failure of one provider: its attempts, or itself as an attempt."""
    if isinstance(error, ProviderError) and (error.attempts or error.unclaimed):
        attempts.kept += error.attempts
        attempts.omitted += error.omitted
        attempts.retryable |= error.retryable
    else:
        attempts.kept.append(Attempt("decrypt", type(provider).__name__, repr(provider), error))
