"""What the header of a message says, without any key.

Nothing of it is verified: whoever could change the message could change all of this.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from aioencrypt.format import AlgorithmSuite, EncryptedDataKey, MessageDecryptor
from aioencrypt.format.context import read_only
from aioencrypt.format.frames import body_layouts
from aioencrypt.format.header import ReceivedHeader
from aioencrypt.policies import Limits, checked_limits
from aioencrypt.providers.base import stored_name
from aioencrypt.providers.kms.arn import parse_arn
from aioencrypt.streams.driver import read_header_of
from aioencrypt.streams.ranges import SeekableSource
from aioencrypt.streams.sources import Source

__all__ = ["InspectedKey", "MessageInspection", "inspect_message"]


def __dir__() -> list[str]:
    return __all__


@attrs.frozen
class InspectedKey:
    """Who encrypted the data key, as the message says.

    `name` is the key ARN, the branch key id, or the name of a raw key; None where that is no text.
    """

    provider_id: str
    name: str | None

    @property
    def arn(self) -> str | None:
        """The ARN where it is an AWS KMS key."""
        return self.name if self.name is not None and parse_arn(self.name) else None


@attrs.frozen(kw_only=True)
class MessageInspection:
    """What a header says, none of it verified. All lengths are in bytes.

    `frame_length` is 0 for a non-framed message. `message_length` is None where it is not known.
    `plaintext_length` follows from it: it is None, too, where no message is that long, because it is
    cut off, for example. Of a signed message it takes for granted that the signature has the length
    that all SDKs write today.
    """

    algorithm_suite: AlgorithmSuite
    message_id: bytes
    unauthenticated_context: Mapping[str, str] = attrs.field(converter=read_only)
    encrypted_data_keys: tuple[EncryptedDataKey, ...]
    frame_length: int
    header_length: int
    message_length: int | None
    plaintext_length: int | None

    @property
    def signed(self) -> bool:
        """Whether the message ends with a signature."""
        return self.algorithm_suite.signed

    @property
    def keys(self) -> tuple[InspectedKey, ...]:
        """The keys of the encrypted data keys, in order: any one of them opens the message."""
        return tuple(InspectedKey(key.provider_id, stored_name(key)) for key in self.encrypted_data_keys)

    @property
    def key_arns(self) -> tuple[str, ...]:
        """The ARNs of the AWS KMS keys among them."""
        return tuple(key.arn for key in self.keys if key.arn)


async def inspect_message(
    source: Source | SeekableSource,
    *,
    message_length: int | None = None,
    max_encrypted_data_keys: int | None = None,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> MessageInspection:
    """Parse the header of a message; no key is needed, and nothing is verified.

    `source` is what `open_seekable` takes, or what `decrypt_stream` takes: of that, the start is read.
    `message_length` is the length of the whole message, where the source is a part or does not know it.

    Raises `TypeError` for other sources, `MessageError` where the bytes are no header, `LimitError`,
    and what the source raises.
    """
    machine = MessageDecryptor(
        max_header_length=checked_limits(limits).max_header_length,
        max_encrypted_data_keys=max_encrypted_data_keys,
    )
    known = await read_header_of(machine, source)
    return _inspection(machine.received, known if message_length is None else message_length)


def _inspection(received: ReceivedHeader, message_length: int | None) -> MessageInspection:
    layout = None
    if message_length is not None:
        layout = next(body_layouts(received, message_length), None)
    header = received.header
    return MessageInspection(
        algorithm_suite=header.algorithm_suite,
        message_id=header.message_id,
        unauthenticated_context=header.encryption_context,
        encrypted_data_keys=header.encrypted_data_keys,
        frame_length=header.frame_length,
        header_length=len(received.serialized),
        message_length=message_length,
        plaintext_length=layout.plaintext_length if layout else None,
    )
