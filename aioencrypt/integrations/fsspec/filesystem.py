"""An encrypted file system over any file system of fsspec: ``aioencrypt::s3://bucket/key``.

Paths, and everything that is no content, are those of the file system below. Files are messages, read
at random and written whole or not at all; sizes are those of plaintexts.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, cast

from aioencrypt.format.context import read_only
from aioencrypt.runtime.secrets import hides_arguments

try:
    from fsspec.asyn import running_async, sync
    from fsspec.callbacks import DEFAULT_CALLBACK, Callback
    from fsspec.utils import isfilelike
except ImportError as _error:
    raise ImportError(
        "aioencrypt.integrations.fsspec needs fsspec: pip install 'aioencrypt[fsspec]'"
    ) from _error

from aioencrypt.client import EncryptionClient, Provider
from aioencrypt.format import AlgorithmSuite
from aioencrypt.format.wire import flat_view
from aioencrypt.inspection import MessageInspection, inspect_message
from aioencrypt.integrations.fsspec.as_json import client_of
from aioencrypt.integrations.fsspec.files import (
    AsyncReadFile,
    AsyncWriteFile,
    OpenMessage,
    ReadFile,
    WaitingFile,
    WriteFile,
)
from aioencrypt.integrations.fsspec.paths import PathsFileSystem
from aioencrypt.integrations.fsspec.provider import GivenProvider, OpenProviders, Option
from aioencrypt.integrations.fsspec.target import (
    TargetRanges,
    TargetReader,
    TargetWriter,
    in_order,
)
from aioencrypt.rewrap import Keep, RewrapResult, rewrap_stream
from aioencrypt.runtime.arguments import check_choice
from aioencrypt.runtime.event_loops import running_loop, start_in_loop
from aioencrypt.runtime.offload import in_file_thread, read_in_thread
from aioencrypt.streams.files import FileOutput, FileReader, MessageSink

_CHUNK_LENGTH = 4 * 1024 * 1024
_AT_ONCE = 16
_SECONDS_TO_LEAVE = 5


class EncryptedFileSystem(PathsFileSystem):
    """Files encrypted under a provider, in another file system.

    `provider`: a provider, a function without arguments that makes one, or ``"package.module:name"`` of
    either. It is entered on the event loop of the file system at the first use, and left by `close`, or
    when the program ends. Providers with key bytes do not go to other processes; the other two do.
    `target_protocol`, `target_options`: the file system below; or `fs`, an instance of it.
    `algorithm_suite`: by default without a signature, which nobody verifies who reads parts.
    `encryption_context`: authenticated with every file that is written, and demanded of every file read.
    `sizes=False`: `ls`, `find`, `glob` and `walk` give None for sizes, and save a read for each file.
    `plaintext_length_bound`: for managers that cache data keys, as in `encrypt_stream`.
    `encryption_client`: an `EncryptionClient`, or what `to_json` writes for one. `frame_length`: as there.
    `accept_unverified_signature`: as in `open_seekable`.
    """

    @hides_arguments
    def __init__(
        self,
        *,
        provider: GivenProvider | None = None,
        target_protocol: str | None = None,
        target_options: Mapping[str, Any] | None = None,
        fs: Any = None,
        fo: str | None = None,
        encryption_context: Mapping[str, str] | None = None,
        algorithm_suite: AlgorithmSuite | int = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        frame_length: int | None = None,
        plaintext_length_bound: int | None = None,
        accept_unverified_signature: bool = False,
        sizes: bool = True,
        encryption_client: EncryptionClient | Mapping[str, Any] | None = None,
        asynchronous: bool = False,
        loop: Any = None,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(
            target_protocol,
            target_options,
            fs=fs,
            sizes=sizes,
            asynchronous=asynchronous,
            loop=loop,
            batch_size=batch_size,
        )
        if provider is None:
            raise ValueError(
                "no provider is given: give the storage option provider, or set FSSPEC_AIOENCRYPT_PROVIDER"
            )
        self._encryption_client: EncryptionClient = client_of(_unwrapped(encryption_client))
        self._reading: dict[str, Any] = {"encryption_context": read_only(encryption_context or {})}
        self._writing: dict[str, Any] = {
            **self._reading,
            "algorithm_suite": _suite(algorithm_suite),
            "frame_length": frame_length,
            "plaintext_length_bound": plaintext_length_bound,
        }
        self._accept_unverified_signature = accept_unverified_signature
        self._providers = OpenProviders(_unwrapped(provider))
        if not asynchronous:
            weakref.finalize(self, _leave, self.loop, self._providers, os.getpid())

    async def open_provider(self) -> Provider:
        """Return the provider, open on the running loop; raises what making and entering it raises."""
        return await self._providers.get()

    async def aclose(self) -> None:
        """Leave the provider on this loop; the next use enters it again."""
        await self._providers.aclose()

    def close(self) -> None:
        """Leave the provider; the next use enters it again."""
        sync(self.loop, self.aclose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # Reading

    async def _open_message(self, path: str, given: Mapping[str, Any]) -> OpenMessage:
        ranges = TargetRanges(self._target, path, given)
        return await ranges.anew(partial(self._enter_message, ranges))

    async def _enter_message(self, ranges: TargetRanges) -> OpenMessage:
        stream = self._encryption_client.open_seekable(
            ranges,
            await self._providers.get(),
            accept_unverified_signature=self._accept_unverified_signature,
            **self._reading,
        )
        return OpenMessage(await stream.__aenter__(), ranges)

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        path, given = self._given(path, kwargs)
        if start in (None, 0) and end is None:
            ranges = TargetRanges(self._target, path, given)
            return await ranges.anew(partial(self._decrypt_whole, ranges))
        async with aclosing(await self._open_message(path, given)) as message:
            return await message.read_part(start, end)

    async def _decrypt_whole(self, ranges: TargetRanges) -> bytes:
        """Return all of a file, verified, signature and all."""
        message, provider = await ranges.read_all(), await self._providers.get()
        found = await self._encryption_client.decrypt(message, provider, **self._reading)
        return found.plaintext

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Sequence[int | None] | int | None,
        ends: Sequence[int | None] | int | None,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Read ranges of files: each file is opened once. Of `max_gap` there is no need."""
        firsts = [*starts] if isinstance(starts, Sequence) else [starts] * len(paths)
        lasts = [*ends] if isinstance(ends, Sequence) else [ends] * len(paths)
        if not len(paths) == len(firsts) == len(lasts):
            raise ValueError(
                f"{len(paths)} paths, {len(firsts)} starts and {len(lasts)} ends: give as many of each"
            )
        wanted: dict[str, list[int]] = {}
        for index, path in enumerate(paths):
            wanted.setdefault(path, []).append(index)
        results: dict[int, bytes | Exception] = {}

        async def read(path: str, indexes: list[int]) -> None:
            async with aclosing(await self._open_message(*self._given(path, kwargs))) as message:
                calls = [partial(message.read_part, firsts[index], lasts[index]) for index in indexes]
                results.update(zip(indexes, await in_order(calls, _AT_ONCE), strict=True))

        files = await in_order([partial(read, *item) for item in wanted.items()], batch_size or _AT_ONCE)
        for indexes, failure in zip(wanted.values(), files, strict=True):
            if isinstance(failure, Exception):
                results.update(dict.fromkeys(indexes, failure))
        found = [results[index] for index in range(len(paths))]
        for one in found:
            if isinstance(one, Exception) and (on_error != "return" or isinstance(one, TypeError)):
                raise one
        return found

    async def _get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: Any = None,
        **kwargs: Any,
    ) -> None:
        """Write the plaintext to a local file, which appears when all of it is verified."""
        place = lpath if outfile is None else outfile
        path, given = self._given(rpath, kwargs)
        if not isfilelike(place) and await self._target.call("isdir", path):
            await in_file_thread(partial(os.makedirs, place, exist_ok=True))
            return
        if callback is not DEFAULT_CALLBACK:
            callback.set_size((await self._info(path, **given))["size"])
        ranges = TargetRanges(self._target, path, given)
        if isfilelike(place):
            # It may be a pipe, which blocks.
            async with ranges.watched():
                await self._decrypt_into(
                    ranges, lambda data: read_in_thread(lambda: place.write(data)), callback
                )
        else:
            await in_file_thread(partial(os.makedirs, os.path.dirname(place) or ".", exist_ok=True))
            await ranges.anew(partial(self._decrypt_to, ranges, place, callback))

    async def _decrypt_to(self, ranges: TargetRanges, path: str, callback: Callback) -> None:
        file = FileOutput(path)
        try:
            await file.create()
            await self._decrypt_into(ranges, file.write, callback)
            await file.commit()
        finally:
            await file.aclose()

    async def _decrypt_into(
        self, ranges: TargetRanges, write: Callable[[bytes], Awaitable[object]], callback: Callback
    ) -> None:
        provider = await self._providers.get()
        async with self._encryption_client.decrypt_stream(
            TargetReader(ranges), provider, **self._reading
        ) as stream:
            while data := await stream.read(_CHUNK_LENGTH):
                await write(data)
                callback.relative_update(len(data))

    # Writing

    async def _start_writer(
        self,
        path: str,
        given: Mapping[str, Any],
        *,
        mode: str = "overwrite",
        streaming: bool = False,
        length: int | None = None,
    ) -> TargetWriter:
        if mode not in ("overwrite", "create", "wb", "xb"):
            raise ValueError(f"mode is {mode!r}; it must be 'overwrite' or 'create'")
        if self._intrans and self.asynchronous:
            raise RuntimeError("transactions block: use a file system without asynchronous=True for them")
        if mode in ("create", "xb") and await self._target.call("exists", path):
            raise FileExistsError(path)
        provider = await self._providers.get()
        sink = await self._target.sink(path, streaming=streaming, given=given)
        writer = TargetWriter(
            self._encryption_client.open(
                cast(MessageSink, sink),
                "wb",
                provider=provider,
                plaintext_length=length,
                **self._writing,
            ),
            sink,
            partial(self.invalidate_cache, path),
        )
        await writer.start()
        return writer

    @asynccontextmanager
    async def _writing_file(
        self, path: str, given: Mapping[str, Any], *, mode: str, length: int | None
    ) -> AsyncIterator[TargetWriter]:
        """Write a file within the context: it is in its place behind it, or behind its transaction."""
        writer = await self._start_writer(path, given, mode=mode, length=length)
        try:
            yield writer
            await writer.finish()
        except BaseException:
            await writer.discard()
            raise
        if self._intrans:
            self.transaction.files.append(WaitingFile(self.loop, writer, path))
        else:
            await writer.commit()

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        path, given = self._given(path, kwargs)
        data = flat_view(memoryview(value))
        async with self._writing_file(path, given, mode=mode, length=len(data)) as writer:
            await writer.write(data)

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        rpath, given = self._given(rpath, kwargs)
        if await in_file_thread(partial(os.path.isdir, lpath)):
            await self._makedirs(rpath, exist_ok=True)
            return
        file = FileReader(lpath)
        try:
            data, more = await file.read(), await file.read()
            callback.set_size(await in_file_thread(partial(os.path.getsize, lpath)))
            length = None if more else len(data)  # of a file that grows, its size would be too small
            async with self._writing_file(rpath, given, mode=mode, length=length) as writer:
                while data:
                    await writer.write(data)
                    callback.relative_update(len(data))
                    data, more = more, more and await file.read()
        finally:
            await file.aclose()

    async def _rewrap(
        self,
        path: str,
        new: EncryptedFileSystem,
        *,
        keep: Keep = False,
        accept_iv_reuse: bool = False,
    ) -> RewrapResult:
        """Put a message under the keys of another file system, over the same target; see `rewrap_stream`."""
        path = self._strip_protocol(path)
        ranges = TargetRanges(self._target, path)
        stream = rewrap_stream(
            TargetReader(ranges),
            await self._providers.get(),
            new_provider=await new.open_provider(),  # type: ignore[arg-type]
            keep=keep,
            encryption_context=self._reading["encryption_context"],
            accept_iv_reuse=accept_iv_reuse,
            encryption_client=self._encryption_client,
        )
        sink = await self._target.sink(path, streaming=True, given={})
        output = FileOutput.of(sink)
        try:
            async with ranges.watched(), stream:
                await output.create()
                while data := await stream.read(_CHUNK_LENGTH):
                    await output.write(data)
                result = RewrapResult(header=stream.header, reencrypted=stream.reencrypted)
            await output.commit()
            await sink.settle()
        finally:
            await sink.release()
        self.invalidate_cache(path)
        return result

    def rewrap(
        self,
        path: str,
        new: EncryptedFileSystem,
        *,
        keep: Keep = False,
        accept_iv_reuse: bool = False,
    ) -> RewrapResult:
        """Put a message under the keys of another file system, over the same target; see `rewrap_stream`.

        The new message takes the place of the old one, whole or not at all.
        """
        result: RewrapResult = sync(
            self.loop, self._rewrap, path, new, keep=keep, accept_iv_reuse=accept_iv_reuse
        )
        return result

    async def _inspect(self, path: str) -> MessageInspection:
        """Return what the header of a message says; no key is needed, and nothing is verified."""
        return await inspect_message(TargetRanges(self._target, self._strip_protocol(path)))

    def inspect(self, path: str) -> MessageInspection:
        """Return what the header of a message says; no key is needed, and nothing is verified."""
        result: MessageInspection = sync(self.loop, self._inspect, path)
        return result

    # Files

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        if compression is not None and "r" not in mode:
            # What compresses leaves it to the garbage collector to close the file below.
            raise ValueError("compress with fsspec.open(url, mode, compression=...), which closes all files")
        return super().open(path, mode, block_size, cache_options, compression, **kwargs)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        cache_type: str | None = None,
        size: int | None = None,
        **kwargs: Any,
    ) -> ReadFile | WriteFile:
        """Open a file for `open`; `size` is a hint of fsspec, and verified."""
        if self.asynchronous:
            raise RuntimeError("this file system is asynchronous: await fs.open_async(path, mode)")
        _check_mode(mode)
        path, given = self._given(path, kwargs)
        if mode == "rb":
            return ReadFile(
                self,
                path,
                message=sync(self.loop, self._open_message, path, given),
                block_size=block_size,
                cache_type=cache_type,
                cache_options=cache_options,
                given=given,
            )
        writer = sync(self.loop, self._start_writer, path, given, mode=mode, streaming=True)
        return WriteFile(self, path, writer=writer, block_size=block_size, autocommit=autocommit)

    async def open_async(
        self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any
    ) -> AsyncReadFile | AsyncWriteFile:
        """Open a file for a caller who awaits its `read`, `write` and `close`; use it in `async with`."""
        path, given = self._given(path, kwargs)
        _check_mode(mode)
        if mode == "rb":
            return AsyncReadFile(self, path, message=await self._open_message(path, given))
        writer = await self._start_writer(path, given, mode=mode, streaming=True)
        return AsyncWriteFile(self, path, writer=writer, block_size=block_size)


def _check_mode(mode: str) -> None:
    if mode not in ("rb", "wb", "xb"):
        raise ValueError(f"mode is {mode!r}; a message is read ('rb') or written anew ('wb', 'xb')")


def _suite(given: AlgorithmSuite | int) -> AlgorithmSuite:
    return (
        AlgorithmSuite(given)
        if isinstance(given, int)
        else check_choice("algorithm_suite", given, AlgorithmSuite)
    )


def _unwrapped(option: Any) -> Any:
    return option.given if isinstance(option, Option) else option


def _leave(loop: Any, providers: OpenProviders, pid: int) -> None:
    """Leave the provider of a file system that nobody has any more: mostly when the program ends."""
    if pid != os.getpid() or not loop.is_running():
        return
    with suppress(Exception):  # there is nobody to be told
        here = running_async() and running_loop() is loop
        if here:
            start_in_loop(loop, providers.aclose)
        else:
            sync(loop, providers.aclose, timeout=_SECONDS_TO_LEAVE)
