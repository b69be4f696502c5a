"""Decrypt a message that a protocol receives from a socket, in pieces of any length.

    python receive_pushed.py

The program is server and client at once. The callbacks of a protocol cannot wait, so they put what arrives
into a queue. One task writes it to a `DecryptWriter`. While the queue is long, the protocol stops reading.
"""

from __future__ import annotations

import asyncio
import secrets

from aioencrypt import DecryptWriter, EncryptionError, RawAESMasterKey, Release, encrypt

PLAINTEXT = b"quarterly figures\n" * 100_000
# Pieces that wait before the protocol stops reading.
QUEUE_LENGTH = 16


class Receiver(asyncio.Protocol):
    """Receives one message. `done` has the plaintext, or the error."""

    def __init__(self, provider: RawAESMasterKey) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._provider = provider
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._task = asyncio.create_task(self._decrypt(transport))

    def data_received(self, data: bytes) -> None:
        self._pieces.put_nowait(data)
        if self._transport and self._pieces.qsize() >= QUEUE_LENGTH:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._pieces.put_nowait(b"")

    async def _decrypt(self, transport: asyncio.Transport) -> None:
        plaintext = bytearray()

        async def sink(data: bytes) -> None:
            plaintext.extend(data)

        try:
            # Leaving the block fails if the connection was lost before the message was complete.
            async with DecryptWriter(sink, self._provider, release=Release.VERIFIED) as writer:
                while piece := await self._pieces.get():
                    await writer.write(piece)
                    if self._pieces.qsize() < QUEUE_LENGTH:
                        transport.resume_reading()
        except EncryptionError as error:
            transport.abort()
            self.done.set_exception(error)
        else:
            self.done.set_result(bytes(plaintext))


async def send(port: int, message: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(message)
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    provider = RawAESMasterKey("my-service", "key-2026", wrapping_key=secrets.token_bytes(32))
    message, _ = await encrypt(PLAINTEXT, provider)
    receivers: asyncio.Queue[Receiver] = asyncio.Queue()

    def make_receiver() -> Receiver:
        receiver = Receiver(provider)
        receivers.put_nowait(receiver)
        return receiver

    server = await asyncio.get_running_loop().create_server(make_receiver, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for sent in (message, message[:-1]):
            await send(port, sent)
            receiver = await receivers.get()
            try:
                plaintext = await receiver.done
            except EncryptionError as error:
                print(f"{type(error).__name__}: {error}")
            else:
                assert plaintext == PLAINTEXT
                print(f"{len(plaintext):,} bytes received and verified")


if __name__ == "__main__":
    asyncio.run(main())
