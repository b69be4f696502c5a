"""What a `MessageDecryptor` says."""

from __future__ import annotations

import attrs

from aioencrypt.format.header import MessageHeader
from aioencrypt.format.work import OpenWork, VerifyWork


@attrs.frozen
class NeedData:
    """More bytes are needed: `receive` them, or ``b""`` at the end of input."""


@attrs.frozen
class HeaderParsed:
    """The header is complete but not verified: for the materials request only. Answer with `unlock`."""

    header: MessageHeader


@attrs.frozen
class HeaderVerified:
    """Commitment and tag of the header are right."""

    header: MessageHeader


@attrs.frozen
class Plaintext:
    """Plaintext that may be released."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class EndOfMessage:
    """Everything is verified, and the input has ended."""


Event = NeedData | HeaderParsed | HeaderVerified | OpenWork | VerifyWork | Plaintext | EndOfMessage
