"""Several providers as one.

Specification: framework/multi-keyring.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from aioencrypt.errors import Attempt, ProviderClosedError, ProviderError
from aioencrypt.materials import DataKeyRequest
from aioencrypt.providers.base import (
    DecryptedDataKey,
    MasterKey,
    MasterKeyProvider,
    check_opened,
    given_keys,
    no_data_key,
)
from aioencrypt.runtime.arguments import describe_type
from aioencrypt.runtime.plugins import await_answer, method_name


class MultiMasterKeyProvider(MasterKeyProvider):
    """A generator and children; children may be multi providers themselves, as deep as you like.

    Encrypting, the generator makes the data key and all keys of all children encrypt it: each of them
    alone can decrypt the message. Decrypting, the generator is tried first, then the children in
    order. With `generator` None this provider decrypts, and encrypts as a child of another.
    `async with` enters the providers given here, and leaves them.
    """

    def __init__(self, generator: MasterKeyProvider | None, *children: MasterKeyProvider) -> None:
        if generator is None and not children:
            raise ValueError("a multi provider needs a generator or a child")
        given = children if generator is None else (generator, *children)
        for provider in given:
            if not isinstance(provider, MasterKeyProvider):
                raise TypeError(f"{describe_type(provider)} is not a MasterKeyProvider")
        self._generator = generator
        self._children = children
        self._stacks: list[AsyncExitStack] = []

    def __repr__(self) -> str:
        providers = ", ".join(map(repr, (self._generator, *self._children)))
        return f"MultiMasterKeyProvider({providers})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is not entered.
        return type(self), (self._generator, *self._children)

    @property
    def providers(self) -> tuple[MasterKeyProvider, ...]:
        """The generator, if any, and the children, in the order in which they are tried."""
        return self._children if self._generator is None else (self._generator, *self._children)

    @property
    def generates(self) -> bool:
        """Whether there is a generator."""
        return self._generator is not None

    async def encryption_keys(self, request: DataKeyRequest) -> Sequence[MasterKey]:
        if self._generator is None:
            raise ProviderError("this multi provider has no generator, so it cannot make a data key")
        keys = await _keys_of(self._generator, request)
        for child in self._children:
            keys += await _child_keys(child, request)
        return keys

    async def decrypt_data_key(self, request: DataKeyRequest) -> DecryptedDataKey:
        attempts: list[Attempt] = []
        for provider in self.providers:
            try:
                name = method_name(provider, "decrypt_data_key")
                opened = await await_answer(name, provider.decrypt_data_key(request), DecryptedDataKey)
                check_opened(provider, opened, request)
                return opened
            except ProviderClosedError:
                raise
            except Exception as error:
                attempts += _attempts_of(provider, error)
        raise no_data_key(request, attempts, self.providers)

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        async with stack:
            for provider in self.providers:
                await stack.enter_async_context(provider)
            self._stacks.append(stack.pop_all())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stacks:
            await self._stacks.pop().__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Leave everything that `async with` entered."""
        while self._stacks:
            await self._stacks.pop().aclose()

    async def warm_up(self) -> None:
        for provider in self.providers:
            await provider.warm_up()


async def _child_keys(child: MasterKeyProvider, request: DataKeyRequest) -> list[MasterKey]:
    if isinstance(child, MultiMasterKeyProvider) and not child.generates:
        return [key for grandchild in child.providers for key in await _child_keys(grandchild, request)]
    return await _keys_of(child, request)


async def _keys_of(provider: MasterKeyProvider, request: DataKeyRequest) -> list[MasterKey]:
    keys = [*await given_keys(provider, request)]
    if not keys:
        raise ProviderError(f"{provider!r} gave no master key to encrypt with")
    return keys


def _attempts_of(provider: MasterKeyProvider, error: Exception) -> Sequence[Attempt]:
    if isinstance(error, ProviderError) and (error.attempts or error.unclaimed):
        return error.attempts
    return (Attempt("decrypt", type(provider).__name__, repr(provider), error),)
