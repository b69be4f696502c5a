"""The encryption context: validation, canonical serialization, and parsing.

Specification: framework/structures.md#encryption-context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from aioencrypt.errors import MalformedMessageError
from aioencrypt.format.suites import SignatureAlgorithm
from aioencrypt.runtime.secrets import SecretBytes, hides_locals

RESERVED_PREFIX = "aws-crypto-"
PUBLIC_KEY_NAME = "aws-crypto-public-key"

_MAX_LENGTH = 0xFFFF
# Printable ASCII in the order of JavaScript's localeCompare; upper and lower case letters share a place.
_LOCALE_ORDER = " _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$0123456789abcdefghijklmnopqrstuvwxyz"


class EncryptionContext(dict[str, str]):
    """A read-only encryption context. Its `repr` shows neither keys nor values.

    It is a `dict`, so `json.dumps` and AWS clients accept it. `dict(context)` returns a copy that you can
    change. Copies, including those of `copy` and `pickle`, are equal and have the same hash.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        # Values, and in some systems also keys, do not belong in logs.
        return f"<{len(self)} pairs>"

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return EncryptionContext, (dict(self),)

    def __deepcopy__(self, memo: object) -> EncryptionContext:
        return self

    def _refuse(self, *arguments: object, **pairs: object) -> NoReturn:
        raise TypeError("an encryption context is read-only; change a copy of it: dict(context)")

    if not TYPE_CHECKING:  # type checkers see a Mapping in all signatures
        __setitem__ = __delitem__ = __ior__ = _refuse
        clear = pop = popitem = setdefault = update = _refuse


def read_only(context: Mapping[str, str]) -> EncryptionContext:
    """Return a read-only copy of a context, or the context itself if it is read-only."""
    return context if type(context) is EncryptionContext else EncryptionContext(context)


def validate_context(
    context: Mapping[str, str], *, reserved: bool = False, signature: SignatureAlgorithm | None = None
) -> EncryptionContext:
    """Return a read-only copy of a caller's context.

    Raises `TypeError` for keys or values that are not `str`, and `ValueError` for keys with the reserved
    prefix (client-apis/encrypt.md#encryption-context) unless `reserved` allows them, for text that is not
    valid Unicode, and for more than 65,535 bytes in one key, in one value or in total. With a `signature`,
    the context must have room for the public key, which is added later.
    """
    if context == {}:
        return EncryptionContext()
    if not isinstance(context, Mapping):
        raise TypeError(
            f"an encryption context must be a mapping of str to str, not {type(context).__name__}"
        )
    for key, value in context.items():
        if not isinstance(key, str) or not isinstance(value, str):
            at = f" at {key!r}" if isinstance(key, str) else ""
            wrong = type(value if at else key).__name__
            raise TypeError(f"keys and values of an encryption context must be str, not {wrong}{at}")
        if key.startswith(RESERVED_PREFIX) and not reserved:
            raise ValueError(
                f"the encryption context key {key!r} starts with the reserved {RESERVED_PREFIX!r}"
            )
    length = len(serialize_context(context))
    if signature:
        encoded = -(-signature.public_key_length // 3) * 4
        _check_length(
            length + 2 + len(PUBLIC_KEY_NAME) + 2 + encoded, " with the public key of the signature"
        )
    return read_only(context)


@hides_locals
def serialize_context(context: Mapping[str, str], order: Iterable[str] | None = None) -> bytes:
    """Return the canonical serialization, sorted by the UTF-8 bytes of the keys; empty for an empty context.

    `order` lists all keys in another order. Raises `ValueError` for a context that is too long for the
    format.
    """
    if not context:
        return b""
    pairs = [(_encode(key, key), _encode(context[key], key)) for key in order or context]
    if order is None:
        pairs.sort()
    parts = [len(pairs).to_bytes(2, "big")] if len(pairs) <= _MAX_LENGTH else []
    for key, value in pairs:
        parts += (len(key).to_bytes(2, "big"), key, len(value).to_bytes(2, "big"), value)
    serialized = SecretBytes(b"".join(parts))
    _check_length(len(serialized))
    return serialized


def _check_length(length: int, what: str = "") -> None:
    if length > _MAX_LENGTH:
        raise ValueError(
            f"the encryption context{what} is {length} bytes long, "
            f"above the {_MAX_LENGTH} of the message format"
        )


def odd_serializations(context: Mapping[str, str]) -> list[bytes]:
    """Return other serializations of a context that some writers authenticated.

    Raw AES keys of the JavaScript SDK sort by locale. Before 4.2.1 its headers did so, too: the context keeps
    the order of the header. For later versions, the locale order of ASCII keys is reproduced here.
    """
    orders = (
        [*context],
        sorted(context, key=lambda key: ([*map(_LOCALE_ORDER.find, key.lower())], key.swapcase())),
    )
    odd = dict.fromkeys(serialize_context(context, order) for order in orders)
    odd.pop(serialize_context(context), None)
    return [*odd]


def _encode(text: str, key: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = None
    if encoded is None:  # outside, as the error has the value
        raise ValueError(f"key or value of the encryption context at {key!r} is not valid Unicode text")
    if len(encoded) > _MAX_LENGTH:
        raise ValueError(
            f"key or value of the encryption context at {key[:40]!r} is {len(encoded)} bytes long, "
            f"above the {_MAX_LENGTH} of the message format"
        )
    return encoded


@hides_locals
def parse_context(data: bytes) -> dict[str, str]:
    """Parse serialized pairs; empty bytes give an empty context.

    The order of the pairs is not checked, because JavaScript SDKs before 4.2.1 sorted by UTF-16 code units.
    The header tag covers the bytes as they are. Raises `MalformedMessageError`.
    """
    context: dict[str, str] = {}
    if not data:
        return context
    position = 2
    count = int.from_bytes(data[:2], "big")
    if len(data) < 2 or count == 0:
        raise MalformedMessageError("the encryption context in the header is not empty but counts no pairs")
    for _ in range(count):
        key, position = _text(data, position)
        value, position = _text(data, position)
        if key in context:
            raise MalformedMessageError(
                f"the encryption context in the header has the key {key[:40]!r} twice"
            )
        context[key] = value
    if position != len(data):
        raise MalformedMessageError(
            f"the encryption context in the header has {len(data) - position} bytes after its last pair"
        )
    return context


def _text(data: bytes, position: int) -> tuple[str, int]:
    start = position + 2
    end = start + int.from_bytes(data[position:start], "big")
    if end > len(data) or start > len(data):
        raise MalformedMessageError("a length in the encryption context in the header passes its end")
    try:
        text = data[start:end].decode()
    except UnicodeDecodeError:
        text = None
    if text is None:  # outside, as the error has the value
        raise MalformedMessageError("the encryption context in the header is not valid UTF-8")
    return text, end
