"""Rewrapping files: whole or not at all, beside or in place."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from aioencrypt import (
    AlgorithmSuite,
    PolicyError,
    RawAESMasterKey,
    SignatureError,
    SignaturePolicyError,
    TagError,
)
from aioencrypt.inspection import inspect_message
from aioencrypt.rewrap import RewrapResult, rewrap_file
from tests.support.rewrapping import NEW, OLD, OTHER, V1_UNSIGNED, message_of, not_other, opens
from tests.support.streaming import SIGNED, UNSIGNED, assert_idle, client_for, flipped, plaintext_of

pytestmark = pytest.mark.anyio

PLAINTEXT = plaintext_of(300_000)
suites = pytest.mark.parametrize("suite", [V1_UNSIGNED, UNSIGNED, SIGNED], ids=["v1", "v2", "signed"])
LONGER = RawAESMasterKey("rewrap", "a longer name", wrapping_key=bytes(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "message"


async def rewrap(path: Any, suite: AlgorithmSuite, **options: Any) -> RewrapResult:
    """Rewrap what OLD opens, by default for NEW, and check that nothing else is left in the folder."""
    changed: dict[str, Any] = {"new_provider": NEW, "encryption_client": client_for(suite)} | options
    try:
        return await rewrap_file(path, OLD, **changed)
    finally:
        folders = {Path(path).parent, Path(changed.get("destination") or path).parent}
        assert not [name for folder in folders for name in os.listdir(folder) if "partial" in name]
        assert_idle()


async def written(path: Path, suite: AlgorithmSuite) -> bytes:
    message = await message_of(suite, PLAINTEXT, frame_length=4096)
    path.write_bytes(message)
    return message


@suites
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("verify", [False, True])
async def test_a_file_is_rewrapped(
    suite: AlgorithmSuite, kind: Any, in_place: bool, verify: bool, path: Path
) -> None:
    await written(path, suite)
    result = await rewrap(kind(path), suite, in_place=in_place, verify=verify)
    assert result.reencrypted is (suite is not V1_UNSIGNED)
    assert result.header.encrypted_data_keys == (await inspect_message(path)).encrypted_data_keys
    assert await opens(NEW, path.read_bytes(), suite) == PLAINTEXT
    assert await opens(OLD, path.read_bytes(), suite) is None


@suites
async def test_another_file_may_be_the_destination(suite: AlgorithmSuite, path: Path, tmp_path: Path) -> None:
    message = await written(path, suite)
    destination = tmp_path / "new"
    await rewrap(path, suite, destination=destination)
    assert path.read_bytes() == message
    assert await opens(NEW, destination.read_bytes(), suite) == PLAINTEXT


async def test_the_mode_of_the_file_stays(path: Path) -> None:
    await written(path, UNSIGNED)
    path.chmod(0o640)
    await rewrap(path, UNSIGNED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("suite", [V1_UNSIGNED, UNSIGNED], ids=["v1", "v2"])
@pytest.mark.parametrize("verify", [False, True])
async def test_in_place_nothing_but_the_header_is_written_where_it_fits(
    suite: AlgorithmSuite, verify: bool, path: Path
) -> None:
    message = await written(path, suite)
    inode = path.stat().st_ino
    # One key for one key of a name as long.
    await rewrap(path, suite, keep=not_other, in_place=True, accept_iv_reuse=suite is UNSIGNED, verify=verify)
    new = path.read_bytes()
    assert path.stat().st_ino != inode, "the names are not as long"
    path.write_bytes(message)
    same = RawAESMasterKey("rewrap", "OTHER", wrapping_key=bytes(32))
    inode = path.stat().st_ino
    options: dict[str, Any] = {"new_provider": same, "keep": not_other, "accept_iv_reuse": suite is UNSIGNED}
    await rewrap(path, suite, in_place=True, verify=verify, **options)
    assert path.stat().st_ino == inode
    new = path.read_bytes()
    length = (await inspect_message(path)).header_length
    assert new[length:] == message[length:]
    assert new[:length] != message[:length]
    for key in (OLD, same):
        assert await opens(key, new, suite) == PLAINTEXT
    assert await opens(OTHER, new, suite) is None


async def test_without_in_place_the_file_is_replaced_however_long_the_header(path: Path) -> None:
    await written(path, V1_UNSIGNED)
    inode = path.stat().st_ino
    same = RawAESMasterKey("rewrap", "OTHER", wrapping_key=bytes(32))
    await rewrap(path, V1_UNSIGNED, new_provider=same, keep=not_other)
    assert path.stat().st_ino != inode


@suites
async def test_where_the_header_does_not_fit_the_file_is_replaced(suite: AlgorithmSuite, path: Path) -> None:
    await written(path, suite)
    await rewrap(path, suite, new_provider=LONGER, in_place=True)
    assert await opens(LONGER, path.read_bytes(), suite) == PLAINTEXT


# Errors leave what was there


@pytest.mark.parametrize(
    ("suite", "options", "error"),
    [
        (V1_UNSIGNED, {"verify": True}, TagError),
        (V1_UNSIGNED, {"verify": True, "in_place": True}, TagError),
        (UNSIGNED, {}, TagError),
        (UNSIGNED, {"in_place": True, "verify": True, "accept_iv_reuse": True}, TagError),
        (SIGNED, {}, TagError),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_damaged_message_leaves_the_files_as_they_were(
    suite: AlgorithmSuite,
    options: dict[str, Any],
    error: type[Exception],
    elsewhere: bool,
    path: Path,
    tmp_path: Path,
) -> None:
    message = flipped(await written(path, suite), 200_000)
    path.write_bytes(message)
    destination = tmp_path / "new"
    destination.write_bytes(b"older")
    if elsewhere and "in_place" not in options:
        options = {"destination": destination, **options}
    same = RawAESMasterKey("rewrap", "OTHER", wrapping_key=bytes(32))
    with pytest.raises(error):
        await rewrap(path, suite, new_provider=same, **options)
    assert path.read_bytes() == message
    assert destination.read_bytes() == b"older"


async def test_a_wrong_signature_leaves_the_file_as_it_was(path: Path) -> None:
    message = flipped(await written(path, SIGNED), -1)
    path.write_bytes(message)
    with pytest.raises(SignatureError):
        await rewrap(path, SIGNED)
    assert path.read_bytes() == message


async def test_a_refusal_leaves_the_file_as_it_was(path: Path) -> None:
    for suite, error in ((SIGNED, SignaturePolicyError), (UNSIGNED, PolicyError)):
        message = await written(path, suite)
        with pytest.raises(error):
            await rewrap(path, suite, reencrypt=False)
        assert path.read_bytes() == message


async def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = await written(path, UNSIGNED)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        await rewrap(path, UNSIGNED)
    assert path.read_bytes() == message


async def test_a_missing_file_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await rewrap(path, UNSIGNED)
    with pytest.raises(FileNotFoundError):
        await rewrap(path, UNSIGNED, destination=path)


async def test_a_missing_folder_is_an_error(path: Path, tmp_path: Path) -> None:
    await written(path, UNSIGNED)
    with pytest.raises(FileNotFoundError):
        await rewrap_file(path, OLD, new_provider=NEW, destination=tmp_path / "none" / "new")
    assert_idle()


async def test_in_place_a_file_that_was_changed_meanwhile_is_left_alone(path: Path) -> None:
    """The header of one message before the body of another: neither could be read any more."""
    await written(path, V1_UNSIGNED)
    other = await message_of(V1_UNSIGNED, PLAINTEXT[::-1], frame_length=4096)

    class Meanwhile(RawAESMasterKey):
        async def encryption_keys(self, request: Any) -> Any:
            path.write_bytes(other)
            return await super().encryption_keys(request)

    same = Meanwhile("rewrap", "OTHER", wrapping_key=bytes(32))
    with pytest.raises(OSError, match="the file was changed in the meantime") as caught:
        await rewrap(path, V1_UNSIGNED, new_provider=same, keep=not_other, in_place=True)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == other


@suites
async def test_the_old_file_is_not_open_any_more_when_it_is_replaced(
    suite: AlgorithmSuite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses that."""
    await written(path, suite)
    replace, seen = os.replace, []

    def watched(source: Any, target: Any, **folders: Any) -> None:
        seen.append([file.path for file in psutil.Process().open_files()])
        replace(source, target, **folders)

    monkeypatch.setattr(os, "replace", watched)
    await rewrap(path, suite)
    assert len(seen) == 1
    assert str(path) not in seen[0]


async def test_in_place_and_elsewhere_exclude_each_other(path: Path) -> None:
    with pytest.raises(ValueError, match="in_place changes the file itself: leave destination out"):
        await rewrap_file(path, OLD, new_provider=NEW, destination="x", in_place=True)


@suites
async def test_cancelled_the_file_stays_as_it_was(suite: AlgorithmSuite, path: Path) -> None:
    message = await written(path, suite)

    class Waiting(RawAESMasterKey):
        async def encryption_keys(self, request: Any) -> Any:
            await anyio.sleep_forever()

    waiting = Waiting("rewrap", "OTHER", wrapping_key=bytes(32))
    with anyio.move_on_after(0.01) as scope:
        await rewrap(path, suite, new_provider=waiting)
    assert scope.cancelled_caught
    assert path.read_bytes() == message
