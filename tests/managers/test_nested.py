"""Managers around managers: as many as Python can call, and no more."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest

from aioencrypt import CachingCMM, RequiredEncryptionContextCMM, decrypt, encrypt
from tests.support.streaming import KEY

Wrap = Callable[[Any], Any]
WRAPS: dict[str, Wrap] = {
    "caching": lambda inner: CachingCMM(inner, max_age=60),
    "required": lambda inner: RequiredEncryptionContextCMM(inner, ["a"]),
    "both": lambda inner: CachingCMM(RequiredEncryptionContextCMM(inner, ["a"]), max_age=60),
}


def nested(name: str, depth: int) -> Any:
    """Return managers that are nested so deep."""
    wraps = {"both": depth // 2}
    return reduce(lambda inner, _: WRAPS[name](inner), range(wraps.get(name, depth)), KEY)


@pytest.mark.anyio
@pytest.mark.parametrize("name", WRAPS)
async def test_nested_managers_work(name: str) -> None:
    context = {"a": "b"}
    async with nested(name, 40) as manager:
        message, _ = await encrypt(b"plaintext", manager, encryption_context=context)
        assert (await decrypt(message, manager, encryption_context=context)).plaintext == b"plaintext"


@pytest.mark.parametrize("name", WRAPS)
def test_managers_that_would_end_in_a_recursion_error_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="more than 40 deep"):
        nested(name, 42)
