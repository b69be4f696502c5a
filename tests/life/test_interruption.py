"""Every public operation, interrupted at each of its suspensions, in every way. Nothing may be left.

The default run takes a sample. `nox -s cancel` takes the first 40 suspensions of every operation, and a
sample of the later ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType

import pytest

from tests.support.interrupting import WAYS, Drive, drive
from tests.support.operations import CASES, World, public_operations

EVERYTHING = "AIOENCRYPT_CANCEL_EVERYWHERE" in os.environ
# Far behind the last suspension.
NEVER = 10**9
SAMPLE = {
    "write_file": (2, 5),
    "one_shot_in_threads": (1, 4),
    "decrypt_stream_verified": (3,),
    "caching_manager": (4,),
    "aiohttp_response": (0,),
    "asgi_response": (0, 3),
    "asgi_upload": (1,),
    "encrypted_files": (0, 5),
}


def numbers(name: str) -> Iterator[int]:
    """Return the suspensions to interrupt, which may be more than there are."""
    return chain(range(40), range(40, 400, 23)) if EVERYTHING else iter(SAMPLE.get(name, ()))


def drive_case(name: str, way: str, number: int, folder: Path) -> Drive:
    folder = folder / f"{way}-{number}"
    folder.mkdir()
    return drive(lambda: World(CASES[name], folder), way, number, folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES if EVERYTHING else SAMPLE)
def test_nothing_is_left(name: str, way: str, tmp_path: Path) -> None:
    left = {}
    for number in numbers(name):
        driven = drive_case(name, way, number, tmp_path)
        if driven.left:
            left[number] = driven.left
        if not driven.reached:
            break
    assert left == {}


def test_every_public_operation_is_in_the_table(tmp_path: Path) -> None:
    """Seen by running the table: an operation that no case reaches is missing."""
    reached: set[CodeType] = set()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        reached.add(frame.f_code)

    for name in CASES:
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            driven = drive_case(name, f"cancel-{name}", NEVER, tmp_path)
        finally:
            sys.setprofile(before)
        assert driven == Drive(False, None, []), name
    assert [name for name, code in public_operations().items() if code not in reached] == []
