"""What observers are told of messages that are put under other keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aioencrypt import AlgorithmSuite, ProviderError, RawAESMasterKey
from aioencrypt.rewrap import rewrap_file, rewrap_header, rewrap_stream
from aioencrypt.testing import InMemoryKMS
from tests.support.kms import US, provider_for
from tests.support.observing import Notes, observed
from tests.support.rewrapping import NEW, NEWER, OLD, V1_UNSIGNED, message_of, not_other
from tests.support.streaming import SIGNED, UNSIGNED, client_for, plaintext_of

pytestmark = pytest.mark.anyio

WHOLE = ("rewrap stream", "Decrypt", "GenerateDataKey", "encrypt stream", "decrypt stream")


@pytest.fixture
def notes() -> Iterator[Notes]:
    with observed() as memory:
        yield memory


@pytest.mark.parametrize(
    ("kind", "suite", "began"),
    [
        ("stream", SIGNED, WHOLE),
        ("stream", UNSIGNED, WHOLE),
        ("stream", V1_UNSIGNED, ("rewrap stream", "Decrypt", "Encrypt")),
        ("file", SIGNED, WHOLE),
        ("file", V1_UNSIGNED, ("rewrap stream", "Decrypt", "Encrypt")),
        ("file in place", V1_UNSIGNED, ("rewrap stream", "Decrypt", "Encrypt")),
        ("header", V1_UNSIGNED, ("rewrap header", "Decrypt", "Encrypt")),
    ],
)
async def test_all_that_a_rewrap_needs_is_done_within_it(
    kind: str, suite: AlgorithmSuite, began: tuple[str, ...], tmp_path: Path
) -> None:
    kms = InMemoryKMS()
    old, new = (provider_for(kms, kms.create_key(region=US)) for _ in range(2))
    message = await message_of(suite, plaintext_of(1234), old)
    path = tmp_path / "message"
    path.write_bytes(message)
    options: dict[str, Any] = {"new_provider": new, "encryption_client": client_for(suite)}
    with observed() as notes:
        match kind:
            case "stream":
                async with rewrap_stream(message, old, **options) as stream:
                    length = len(await stream.read())
            case "header":
                length = len((await rewrap_header(message, old, **options)).serialized)
            case _:
                await rewrap_file(path, old, in_place=kind == "file in place", **options)
                length = 0 if kind == "file in place" else path.stat().st_size
    first, *others = notes.began
    assert (first.name, first.within) == (began[0], ())
    assert sorted(note.name for note in others) == sorted(began[1:])
    assert {note.within for note in others} == {(first.name,)}
    end = first.message
    assert (end.outcome, end.error) == ("complete", None)
    tally = end.tally
    assert (tally.algorithm_suite, tally.ciphertext_length) == (suite, length)
    assert (tally.plaintext_length, tally.frames, tally.cached) == (0, 0, False)


async def test_a_rewrap_without_the_key_fails(notes: Notes) -> None:
    message = await message_of(V1_UNSIGNED, b"", OLD)
    notes.began.clear()
    with pytest.raises(ProviderError):
        await rewrap_header(message, NEW, new_provider=NEWER, encryption_client=client_for(V1_UNSIGNED))
    with pytest.raises(ProviderError):
        async with rewrap_stream(message, NEW, new_provider=NEWER, encryption_client=client_for(V1_UNSIGNED)):
            raise AssertionError
    ends = [(note.message.outcome, note.message.error) for note in notes.began]
    assert ends == [("failed", ProviderError)] * 2
    assert {note.message.tally.algorithm_suite for note in notes.began} == {None}


async def test_a_rewrap_in_place_of_a_file_that_was_changed_fails(notes: Notes, tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(await message_of(V1_UNSIGNED, b"x"))
    notes.began.clear()

    def keep(key: Any) -> bool:
        path.write_bytes(bytes(1000))
        return not_other(key)

    new, client = RawAESMasterKey("rewrap", "OTHER", wrapping_key=bytes(32)), client_for(V1_UNSIGNED)
    with pytest.raises(OSError, match="the file was changed in the meantime"):
        await rewrap_file(path, OLD, new_provider=new, keep=keep, in_place=True, encryption_client=client)
    assert (notes.only.message.outcome, notes.only.message.error) == ("failed", OSError)


async def test_a_rewrap_that_is_left_was_abandoned(notes: Notes) -> None:
    message = await message_of(V1_UNSIGNED, b"x")
    notes.began.clear()
    async with rewrap_stream(
        message, OLD, new_provider=NEW, encryption_client=client_for(V1_UNSIGNED)
    ) as stream:
        stream.abandon()
    assert (notes.only.message.outcome, notes.only.message.error) == ("abandoned", None)
