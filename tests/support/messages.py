"""Messages for tests: the writer of `message_writer`, and drivers of the two machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict, Unpack

import attrs

from aioencrypt.errors import EncryptionError
from aioencrypt.format import (
    EndOfMessage,
    HeaderParsed,
    HeaderVerified,
    MessageDecryptor,
    MessageEncryptor,
    MessageHeader,
    NeedData,
    OpenWork,
    Plaintext,
    VerifyWork,
)
from tests.support.message_writer import (
    DEFAULT_KEYS,
    Message,
    MessageWriter,
    build_message,
    compressed,
    context_bytes,
    example_data_key,
    example_message_id,
    example_signing_key,
    public_key_pair,
    sized,
    sorted_context,
    u16,
    u32,
)

__all__ = [
    "DEFAULT_KEYS",
    "MachineLimits",
    "Message",
    "MessageWriter",
    "Outcome",
    "build_message",
    "compressed",
    "context_bytes",
    "cut",
    "decrypt_all",
    "decrypt_message",
    "drive_encryptor",
    "encrypt_as",
    "example_data_key",
    "example_message_id",
    "example_signing_key",
    "public_key_pair",
    "sized",
    "sorted_context",
    "u16",
    "u32",
]


class MachineLimits(TypedDict, total=False):
    """The limits of a `MessageDecryptor`."""

    max_header_length: int | None
    max_encrypted_data_keys: int | None
    max_frame_length: int | None
    max_plaintext_length: int | None


@attrs.frozen
class Outcome:
    """What a decryptor said: the names of its events with what they carry, and the error that ended it.

    Events: HeaderParsed and HeaderVerified with the header, Plaintext with bytes, EndOfMessage with None.
    """

    events: tuple[tuple[str, MessageHeader | bytes | None], ...]
    error: EncryptionError | None

    @property
    def kinds(self) -> list[str]:
        """The names of the events, several `Plaintext` in a row as one."""
        names = [name for name, _ in self.events]
        return [name for i, name in enumerate(names) if i == 0 or name != names[i - 1]]

    @property
    def plaintext(self) -> bytes:
        """What was released."""
        return b"".join(value for _, value in self.events if isinstance(value, bytes))

    @property
    def header(self) -> MessageHeader:
        """The verified header."""
        return next(
            value
            for name, value in self.events
            if name == "HeaderVerified" and isinstance(value, MessageHeader)
        )


def cut(data: bytes, chunks: int | Sequence[int] | None) -> Iterator[bytes]:
    """Cut data whole (None), into pieces of one length, or of these lengths and the rest."""
    if isinstance(chunks, int):
        yield from (data[i : i + chunks] for i in range(0, len(data), chunks))
        return
    position = 0
    for length in chunks or ():
        if length and data[position : position + length]:
            yield data[position : position + length]
        position += length
    if data[position:]:
        yield data[position:]


def decrypt_all(
    data: bytes,
    data_key: bytes | Callable[[MessageHeader], bytes],
    *,
    chunks: int | Sequence[int] | None = None,
    verification_key: bytes | None = None,
    authenticated_context: bytes = b"",
    **limits: Unpack[MachineLimits],
) -> Outcome:
    """Drive a `MessageDecryptor` over all of `data`; only our own errors are caught."""
    machine = MessageDecryptor(**limits)
    rest = cut(data, chunks)
    events: list[tuple[str, MessageHeader | bytes | None]] = []
    try:
        while True:
            match machine.next_event():
                case NeedData():
                    machine.receive(next(rest, b""))
                case HeaderParsed(header):
                    events.append(("HeaderParsed", header))
                    machine.unlock(
                        data_key if isinstance(data_key, bytes) else data_key(header),
                        verification_key=verification_key,
                        authenticated_context=authenticated_context,
                    )
                case HeaderVerified(header):
                    events.append(("HeaderVerified", header))
                case OpenWork() as work:
                    work.digest()
                    machine.settle(work, work.crypt())
                case VerifyWork() as work:
                    machine.settle(work, work.crypt())
                case Plaintext(released):
                    events.append(("Plaintext", released))
                case EndOfMessage():
                    events.append(("EndOfMessage", None))
                    return Outcome(tuple(events), None)
    except EncryptionError as error:
        return Outcome(tuple(events), error)


def decrypt_message(
    message: Message,
    data: bytes | None = None,
    *,
    chunks: int | Sequence[int] | None = None,
    **limits: Unpack[MachineLimits],
) -> Outcome:
    """Drive a `MessageDecryptor` over a message, or over changed bytes of it, with its own keys."""
    return decrypt_all(
        message.data if data is None else data,
        message.data_key,
        chunks=chunks,
        verification_key=message.verification_key,
        **limits,
    )


def drive_encryptor(
    machine: MessageEncryptor, plaintext: bytes, *, chunks: int | Sequence[int] | None = None
) -> bytes:
    """Drive a `MessageEncryptor` over all of `plaintext` and return the message."""
    written = [machine.start()]
    written += [_sealed(machine, piece, last=False) for piece in cut(plaintext, chunks)]
    written.append(_sealed(machine, b"", last=True))
    written.append(machine.finish())
    return b"".join(written)


def _sealed(machine: MessageEncryptor, plaintext: bytes, *, last: bool) -> bytes:
    work = machine.seal(plaintext, last)
    sealed = work.crypt()
    work.digest(sealed)
    machine.settle(work)
    return sealed


def encrypt_as(
    message: Message, header: MessageHeader, *, chunks: int | Sequence[int] | None = None
) -> bytes:
    """Write the plaintext of a framed message again, with a `MessageEncryptor`."""
    machine = MessageEncryptor(
        message.suite,
        message.data_key,
        message_id=message.message_id,
        encryption_context=header.encryption_context,
        encrypted_data_keys=header.encrypted_data_keys,
        frame_length=header.frame_length,
        signer=message.sign if message.verification_key else None,
    )
    return drive_encryptor(machine, message.plaintext, chunks=chunks)
