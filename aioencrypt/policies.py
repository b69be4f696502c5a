"""Options of a call: signature policy, release, limits, and where work runs."""

from __future__ import annotations

import enum

import attrs

from aioencrypt.runtime.arguments import check_limit, check_type


class SignaturePolicy(enum.Enum):
    """How decrypting treats signed and unsigned messages.

    FORBID rejects a signed message after its header and before any call to a key service, so that no
    plaintext is released before a signature is verified (client-apis/decrypt.md#behavior). REQUIRE rejects
    an unsigned message.
    """

    ALLOW = "allow"
    FORBID = "forbid"
    REQUIRE = "require"


class Release(enum.Enum):
    """When a decrypt stream releases plaintext.

    STREAM: each frame once its tag is verified, and the last frame once the signature is verified, too.
    VERIFIED: nothing before the final frame, the signature and the end of input are verified. Until then, the
    plaintext waits in memory and, from `SPOOL_LENGTH` bytes on, in an encrypted temporary file.
    """

    STREAM = "stream"
    VERIFIED = "verified"


class Offload(enum.Enum):
    """Where AES-GCM runs.

    INLINE: in the event loop, at most 250 microseconds per loop iteration over all streams. THREADS: in
    worker threads, for batches that are worth the hop. AUTO: in the event loop, and in threads while
    streams wait for the loop and a core is free. Work that cannot be divided always runs in threads.
    """

    AUTO = "auto"
    INLINE = "inline"
    THREADS = "threads"


@attrs.frozen(kw_only=True)
class Limits:
    """Limits for decrypting, in bytes; None means no limit. A message that exceeds one raises `LimitError`.

    `max_frame_length` applies to each frame that arrives, before its content is buffered, and to a non-framed
    body. It does not apply to the frame length in the header, which a short message never reaches. The memory
    for a stream grows with its longest frame.
    """

    max_header_length: int | None = 1024 * 1024
    max_frame_length: int | None = 64 * 1024 * 1024
    max_plaintext_length: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            check_limit(name, value)


def checked_limits(limits: Limits) -> Limits:
    """Return the limits unchanged; raises `TypeError` for other types."""
    return check_type("limits", limits, Limits, ": write Limits(...)")
