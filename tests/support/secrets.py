"""Secrets in what error reporters send away: the locals of every frame of ours in an error and its causes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import aioencrypt

_PACKAGE = str(Path(aioencrypt.__file__).parent)


def errors_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error with everything that hangs on it: causes, contexts, members of groups; each once."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        more = [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            more += one.exceptions
        waiting += [other for other in more if other is not None]


def frames_of(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of files of the package in the tracebacks of an error and what hangs on it."""
    for one in errors_of(error):
        traceback = one.__traceback__
        while traceback:
            if traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE):
                yield traceback.tb_frame
            traceback = traceback.tb_next


def spellings(secret: bytes | str) -> set[str]:
    """Return how a secret may be shown."""
    if isinstance(secret, str):
        return {secret, repr(secret)[1:-1]}
    text = base64.b64encode(secret).decode()
    return {repr(secret)[2:-1], repr(bytearray(secret))[12:-2], secret.hex(), text, str(list(secret))[1:-1]}


def leaks(error: BaseException, *secrets: bytes | str) -> list[str]:
    """Name every local of ours whose `repr` shows a secret: ``file:function:name``."""
    found = []
    for frame in frames_of(error):
        for name, value in frame.f_locals.items():
            shown = repr(value)
            if any(text in shown for secret in secrets for text in spellings(secret)):
                code = frame.f_code
                found.append(f"{Path(code.co_filename).name}:{code.co_name}:{name}")
    return found


def assert_no_secrets(error: BaseException, *secrets: bytes | str) -> None:
    """Assert that an error went through our files, and that none of them shows a secret."""
    assert next(frames_of(error), None), "no frame of the package: the error was raised elsewhere"
    found = leaks(error, *secrets)
    assert not found, found
