"""Every operation, cancelled at each of its suspensions, in every way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

import aioencrypt
from aioencrypt import (
    AlgorithmSuite,
    AWSConnection,
    KMSMasterKeyProvider,
    MasterKeyProvider,
    MessageError,
    MultiMasterKeyProvider,
    Release,
    StreamError,
    decrypt,
    encrypt,
)
from aioencrypt.streams.files import FileReader
from aioencrypt.streams.spool import SPOOL_LENGTH
from aioencrypt.testing import InMemoryKMS
from tests.support.cancelling import Way, assert_failed, assert_fine, each_way_without_uvloop
from tests.support.streaming import KEY, SIGNED, UNSIGNED, Feed, assert_idle, plaintext_of, sealed

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]

# Frames of which each goes to a thread, and its digest to another.
LONG_FRAME = 2_400_000
PLAINTEXT = plaintext_of(20_000)
LONG_PLAINTEXT = plaintext_of(LONG_FRAME + 100_000)


class Scenario(ABC):
    """Something to cancel, and what must hold after it."""

    @abstractmethod
    async def run(self) -> None: ...

    @abstractmethod
    async def check(self, cancelled: bool) -> None: ...


async def cancel_everywhere(way: Way, make: Callable[[], Scenario], *, at_least: int) -> None:
    for number in count():
        scenario = make()
        reached, cancelled = await way.at(number, scenario.run)
        assert_idle()
        await scenario.check(cancelled)
        if not reached:
            break
    assert number >= at_least
    await assert_fine()


class OneShot(Scenario):
    def __init__(
        self, provider: MasterKeyProvider, plaintext: bytes, *, whole: bool, frame_length: int
    ) -> None:
        self.provider = provider
        self.plaintext = plaintext
        self.whole = whole
        self.frame_length = frame_length
        self.message = self.plaintext_again = b""

    async def run(self) -> None:
        plaintext = self.plaintext if self.whole else Feed(*cut(self.plaintext, 3))
        self.message, _ = await encrypt(plaintext, self.provider, frame_length=self.frame_length)
        message = self.message if self.whole else Feed(*cut(self.message, 3))
        self.plaintext_again, _ = await decrypt(message, self.provider)

    async def check(self, cancelled: bool) -> None:
        assert self.plaintext_again == (b"" if cancelled else self.plaintext)


def cut(data: bytes, count: int) -> list[bytes]:
    step = -(-len(data) // count)
    return [data[start : start + step] for start in range(0, len(data), step)]


class EncryptStreaming(Scenario):
    def __init__(self, suite: AlgorithmSuite, plaintext: bytes, frame_length: int) -> None:
        self.source = Feed(*cut(plaintext, 4))
        self.plaintext = plaintext
        self.stream = aioencrypt.encrypt_stream(
            self.source, KEY, algorithm_suite=suite, frame_length=frame_length
        )
        self.taken = b""
        self.complete = False

    async def run(self) -> None:
        async with self.stream:
            async for chunk in self.stream:
                self.taken += chunk
            self.complete = True

    async def check(self, cancelled: bool) -> None:
        assert self.complete or cancelled
        if self.complete:
            assert (await decrypt(self.taken, KEY)).plaintext == self.plaintext
            return
        await assert_failed(self.stream)
        digests = self.stream._sealer._digests if self.stream._sealer else None
        assert digests is None or not digests.pending
        with pytest.raises(MessageError):
            await decrypt(self.taken, KEY)


class DecryptStreaming(Scenario):
    def __init__(self, source: bytes | Path, plaintext: bytes, release: Release = Release.STREAM) -> None:
        self.plaintext = plaintext
        self.release = release
        self.stream = (
            aioencrypt.open(source, "rb", provider=KEY, release=release)
            if isinstance(source, Path)
            else aioencrypt.decrypt_stream(Feed(*cut(source, 4)), KEY, release=release)
        )
        self.taken = b""
        self.complete = False

    async def run(self) -> None:
        async with self.stream:
            async for chunk in self.stream:
                assert self.stream.verified or self.release is Release.STREAM
                self.taken += chunk
            self.complete = True

    async def check(self, cancelled: bool) -> None:
        assert self.complete or cancelled
        assert self.plaintext.startswith(self.taken)
        assert not self.complete or (self.stream.verified and self.taken == self.plaintext)
        digests = self.stream._opener._driver._digests
        assert digests is None or not digests.pending
        assert self.stream._opener._spool is None or self.stream._opener._spool._file is None
        reader = self.stream._reader
        assert not isinstance(reader, FileReader) or reader._file.closed
        if not self.complete:
            await assert_failed(self.stream)


class Writing(Scenario):
    """A file that is replaced."""

    OLD = b"what was there before"

    def __init__(self, path: Path, plaintext: bytes, frame_length: int) -> None:
        self.path = path
        self.plaintext = plaintext
        self.writer = aioencrypt.open(path, "wb", provider=KEY, frame_length=frame_length)
        path.write_bytes(self.OLD)

    async def run(self) -> None:
        async with self.writer:
            for piece in cut(self.plaintext, 3):
                await self.writer.write(piece)

    async def check(self, cancelled: bool) -> None:
        assert [*self.path.parent.iterdir()] == [self.path], "a partial file is left"
        digests = self.writer._sealer._digests if self.writer._sealer else None
        assert digests is None or not digests.pending
        if (content := self.path.read_bytes()) == self.OLD:
            assert cancelled
            with pytest.raises(StreamError):
                await self.writer.write(b"more")
        else:
            assert (await decrypt(content, KEY)).plaintext == self.plaintext


@pytest.mark.parametrize("whole", [True, False], ids=["bytes", "reader"])
@each_way_without_uvloop
async def test_one_shot_under_several_kms_keys(way: Way, whole: bool) -> None:
    kms = InMemoryKMS()
    keys = [kms.create_key(region=region) for region in ("us-east-1", "eu-west-1", "ap-south-1")]
    clients = kms.clients("us-east-1", "eu-west-1", "ap-south-1")
    provider = MultiMasterKeyProvider(KMSMasterKeyProvider(keys, connection=AWSConnection(kms=clients)), KEY)
    await cancel_everywhere(
        way, lambda: OneShot(provider, PLAINTEXT, whole=whole, frame_length=4096), at_least=5
    )


@pytest.mark.parametrize("whole", [True, False], ids=["bytes", "reader"])
@each_way_without_uvloop
async def test_one_shot_in_threads(way: Way, whole: bool) -> None:
    await cancel_everywhere(
        way, lambda: OneShot(KEY, LONG_PLAINTEXT, whole=whole, frame_length=LONG_FRAME), at_least=5
    )


suites = pytest.mark.parametrize("suite", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])


@suites
@each_way_without_uvloop
async def test_encrypt_stream(way: Way, suite: AlgorithmSuite) -> None:
    await cancel_everywhere(way, lambda: EncryptStreaming(suite, PLAINTEXT, 1000), at_least=4)


@each_way_without_uvloop
async def test_encrypt_stream_in_threads(way: Way) -> None:
    await cancel_everywhere(way, lambda: EncryptStreaming(SIGNED, LONG_PLAINTEXT, LONG_FRAME), at_least=7)


@suites
@pytest.mark.parametrize("release", Release)
@each_way_without_uvloop
async def test_decrypt_stream(way: Way, suite: AlgorithmSuite, release: Release) -> None:
    message = await sealed(PLAINTEXT, suite, frame_length=1000)
    await cancel_everywhere(way, lambda: DecryptStreaming(message, PLAINTEXT, release), at_least=4)


@each_way_without_uvloop
async def test_decrypt_stream_in_threads(way: Way) -> None:
    message = await sealed(LONG_PLAINTEXT, frame_length=LONG_FRAME)
    await cancel_everywhere(way, lambda: DecryptStreaming(message, LONG_PLAINTEXT), at_least=6)


@each_way_without_uvloop
async def test_a_spool_on_disk(way: Way) -> None:
    plaintext = plaintext_of(SPOOL_LENGTH + LONG_FRAME)
    message = await sealed(plaintext, UNSIGNED, frame_length=LONG_FRAME)
    await cancel_everywhere(way, lambda: DecryptStreaming(message, plaintext, Release.VERIFIED), at_least=12)


@each_way_without_uvloop
async def test_a_file_that_is_written(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "file"
    await cancel_everywhere(way, lambda: Writing(path, PLAINTEXT, 1000), at_least=7)


@each_way_without_uvloop
async def test_a_file_that_is_written_in_threads(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "file"
    await cancel_everywhere(way, lambda: Writing(path, LONG_PLAINTEXT, LONG_FRAME), at_least=9)


@each_way_without_uvloop
async def test_a_file_that_is_read(way: Way, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(await sealed(LONG_PLAINTEXT, frame_length=LONG_FRAME))
    await cancel_everywhere(way, lambda: DecryptStreaming(path, LONG_PLAINTEXT), at_least=7)
