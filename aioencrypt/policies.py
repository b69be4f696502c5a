"""What a caller may ask of a call: signature policy, release, limits, where work runs."""

from __future__ import annotations

import enum

import attrs

from aioencrypt.runtime.arguments import check_limit, check_type


class SignaturePolicy(enum.Enum):
    """What to do with the signature of a message on decrypt.

    FORBID refuses a signed message right after its header, before any key service is called, so that
    nothing is released before a signature is verified (client-apis/decrypt.md#behavior). REQUIRE
    refuses a message without one.
    """

    ALLOW = "allow"
    FORBID = "forbid"
    REQUIRE = "require"


class Release(enum.Enum):
    """When a decrypt stream hands plaintext out.

    STREAM: a frame after its tag, the last frame after the signature too. VERIFIED: nothing before
    final frame, signature and end of input are verified; until then the plaintext waits in memory
    and, from `SPOOL_LENGTH` bytes on, in an encrypted temporary file.
    """

    STREAM = "stream"
    VERIFIED = "verified"


class Offload(enum.Enum):
    """Where AES-GCM runs.

    INLINE: in the event loop, at most 250 microseconds in one of its turns over all streams. THREADS:
    in worker threads, for batches worth the hop. AUTO: inline, and in threads while streams wait for
    their turn and a core is free. Work that cannot be cut short runs in threads with each of them.
    """

    AUTO = "auto"
    INLINE = "inline"
    THREADS = "threads"


@attrs.frozen(kw_only=True)
class Limits:
    """Upper bounds while decrypting, in bytes; None is no limit. A breach is a `LimitError`.

    `max_frame_length` applies to each frame that comes, before its bytes are buffered, and to a non-framed
    body; not to the frame length in the header, which a short message never reaches. Memory for a stream
    grows with the longest frame that is let in.
    """

    max_header_length: int | None = 1024 * 1024
    max_frame_length: int | None = 64 * 1024 * 1024
    max_plaintext_length: int | None = None

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            check_limit(name, value)


def checked_limits(limits: Limits) -> Limits:
    """Return limits as they are; raises `TypeError` for anything else."""
    return check_type("limits", limits, Limits, ": write Limits(...)")
