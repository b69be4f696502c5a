"""Driving a `MessageDecryptor` step by step."""

from __future__ import annotations

from typing import Any

from aioencrypt.format import (
    EndOfMessage,
    Event,
    HeaderParsed,
    HeaderVerified,
    MessageDecryptor,
    NeedData,
    OpenWork,
    Plaintext,
    VerifyWork,
)
from tests.support.message_writer import Message


def unlock(machine: MessageDecryptor, message: Message) -> None:
    """Unlock a machine with the keys of a message."""
    machine.unlock(message.data_key, verification_key=message.verification_key)


def do(machine: MessageDecryptor, work: Event) -> None:
    """Do a work and settle it."""
    assert isinstance(work, (OpenWork, VerifyWork))
    if isinstance(work, OpenWork):
        work.digest()
    machine.settle(work, work.crypt())


def work_of(machine: MessageDecryptor) -> OpenWork | VerifyWork:
    """Return the next event, which is a work."""
    work = machine.next_event()
    assert isinstance(work, (OpenWork, VerifyWork))
    return work


def locked(data: bytes | memoryview, **limits: Any) -> MessageDecryptor:
    """Return a machine that has received bytes and parsed the header."""
    machine = MessageDecryptor(**limits)
    machine.receive(data)
    assert isinstance(machine.next_event(), HeaderParsed)
    return machine


def opened(message: Message, data: bytes | memoryview | None = None, **limits: int) -> MessageDecryptor:
    """Return a machine behind the header that has received bytes, by default the header alone."""
    machine = locked(message.data[: message.header_length] if data is None else data, **limits)
    unlock(machine, message)
    assert isinstance(machine.next_event(), HeaderVerified)
    return machine


def released_by(machine: MessageDecryptor) -> bytes:
    """Do everything that can be done with the bytes that are there, and return what is released."""
    released = b""
    while True:
        match machine.next_event():
            case Plaintext(data):
                released += data
            case NeedData() | EndOfMessage():
                return released
            case HeaderVerified():
                pass
            case work:
                do(machine, work)
