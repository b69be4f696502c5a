"""Hold plaintext until the whole message is verified, in memory or encrypted on disk."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aioencrypt.errors import StreamError
from aioencrypt.format.suites import IV_LENGTH, TAG_LENGTH
from aioencrypt.streams.lifecycle import OwnedFile

SPOOL_LENGTH = 8 * 1024 * 1024
"""The number of bytes that wait in memory; what comes after them goes to the temporary file."""

# Short chunks are joined beyond this number: a two-byte chunk costs 28 times its length in memory.
_MANY_CHUNKS = 1024
_SHORT_CHUNK = 4096
# On disk, chunks beyond this number are regrouped to this length, so that no lengths have to be remembered.
_GROUP_LENGTH = 256 * 1024
# `AESGCM` takes at most 2**31 - 1 bytes, and a frame may be longer if there is no limit.
_PIECE_LENGTH = 64 * 1024 * 1024


class Spool(OwnedFile):
    """A queue of chunks: in memory first, then in an unnamed temporary file.

    The file is encrypted under a random key that only this object holds, so neither a crash nor a copy of the
    disk reveals plaintext.
    """

    def __init__(self) -> None:
        super().__init__(lambda: tempfile.TemporaryFile(prefix="aioencrypt-"))
        self._memory: deque[bytes] = deque()
        self._length = 0
        self._aead = AESGCM(os.urandom(32))
        # On disk: first pieces with these lengths, then groups of `_GROUP_LENGTH`. The rest waits in memory.
        self._lengths: deque[int] = deque()
        self._groups = 0
        self._rest = bytearray()
        # Pieces and groups written and read: the number of each is its IV.
        self._written = 0
        self._read = 0

    async def write(self, chunk: bytes) -> None:
        """Add a chunk at the end."""
        if not self._lengths and self._length + len(chunk) <= SPOOL_LENGTH:
            if len(self._memory) >= _MANY_CHUNKS and len(self._memory[-1]) < _SHORT_CHUNK:
                chunk_before = self._memory.pop()
                self._length -= len(chunk_before)
                chunk = chunk_before + chunk
            self._memory.append(chunk)
            self._length += len(chunk)
            return
        if len(self._lengths) < _MANY_CHUNKS:
            await self.in_thread(lambda: self._write_chunk(chunk))
        elif len(self._rest) + len(chunk) < _GROUP_LENGTH:
            self._rest += chunk
        else:
            await self.in_thread(lambda: self._write_groups(chunk))

    def _write_chunk(self, chunk: bytes) -> None:
        with self.use() as file:
            for start in range(0, len(chunk), _PIECE_LENGTH):
                piece = memoryview(chunk)[start : start + _PIECE_LENGTH]
                self._lengths.append(self._write_sealed(file, piece))

    def _write_groups(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        with self.use() as file:
            while len(self._rest) + len(view) >= _GROUP_LENGTH:
                missing = _GROUP_LENGTH - len(self._rest)
                self._write_sealed(file, self._rest + view[:missing])
                self._groups += 1
                self._rest.clear()
                view = view[missing:]
        self._rest += view

    def _write_sealed(self, file: IO[bytes], piece: bytearray | memoryview) -> int:
        sealed = self._aead.encrypt(self._written.to_bytes(IV_LENGTH, "big"), piece, None)
        file.write(sealed)
        self._written += 1
        return len(sealed)

    async def read(self) -> bytes:
        """Return the next chunk, empty at the end. Writing has ended."""
        if self._memory:
            return self._memory.popleft()
        if self._file is not None and (self._lengths or self._groups):
            return await self.in_thread(self._read_file)
        chunk = bytes(self._rest)
        self._rest.clear()
        return chunk

    def _read_file(self) -> bytes:
        with self.use() as file:
            if self._read == 0:
                file.seek(0)
            if self._lengths:
                length = self._lengths.popleft()
            else:
                self._groups -= 1
                length = _GROUP_LENGTH + TAG_LENGTH
            sealed = file.read(length)
        try:
            chunk = self._aead.decrypt(self._read.to_bytes(IV_LENGTH, "big"), sealed, None)
        except InvalidTag as error:
            raise StreamError("the temporary file of this stream was changed on disk") from error
        self._read += 1
        return chunk

    def drop(self) -> None:
        """Drop everything without waiting."""
        self._memory.clear()
        self._rest.clear()
        super().drop()
