"""Argument checks: one rule and one error text for each kind of mistake.

`name` is the name of the argument in the caller's code. A `TypeError` shows the type of a value and never the
value, which may be a key.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from typing import TypeVar
from uuid import UUID, uuid4

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)


def describe_type(given: object) -> str:
    """Return the type of a wrong argument, for an error message that must not show the value."""
    return f"the class {given.__name__}" if isinstance(given, type) else type(given).__name__


def check_type(name: str, value: object, kind: type[T], advice: str = "") -> T:
    """Return the value if it has this type; raises `TypeError`, ending in `advice`. A bool is not an int."""
    if type(value) is kind or (isinstance(value, kind) and not (isinstance(value, bool) and kind is int)):
        return value
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    raise TypeError(f"{name} must be {article} {kind.__name__}, not {describe_type(value)}{advice}")


def check_texts(name: str, values: Iterable[str], item: str, advice: str = "") -> tuple[str, ...]:
    """Return a collection of str as a tuple; raises `TypeError`, also for a single str."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(
            f"{name} must be a collection of {item}s, not {describe_type(values)}: write [{name[:-1]}]"
        )
    return tuple([check_type(f"each {item}", value, str, advice) for value in values])


def encode_text(name: str, value: str) -> bytes:
    """Return a text in UTF-8; raises `TypeError`, and `ValueError` for a lone surrogate."""
    try:
        return check_type(name, value, str).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode text: {error.reason}") from error


def check_int(name: str, value: int, lowest: int, highest: int | None = None) -> int:
    """Return the value if it is an int within limits; raises `TypeError` and `ValueError`."""
    if type(value) is not int:
        check_type(name, value, int)
    if value < lowest or (highest is not None and value > highest):
        expected = f"{lowest} or more" if highest is None else f"{lowest} to {highest}"
        raise ValueError(f"{name} is {value}; it must be {expected}")
    return value


def check_limit(name: str, value: int | None, lowest: int = 0) -> int | None:
    """Return the value if it is an upper limit, or None for no limit; raises `TypeError` and `ValueError`."""
    if value is not None and check_type(name, value, int, ": give None for no limit") < lowest:
        raise ValueError(f"{name} is {value}; it must be {lowest} or more, or None for no limit")
    return value


def check_seconds(name: str, value: float) -> float:
    """Return the value if it is a number of seconds; raises `TypeError`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {describe_type(value)}")
    return value


def check_age(max_age: float, refresh_ahead: float) -> None:
    """Check the maximum age of a cached value and how long before its end it is refreshed, in seconds."""
    if not 0 < check_seconds("max_age", max_age) < math.inf:
        raise ValueError(f"max_age is {max_age}; it must be more than 0 seconds, and finite")
    if not 0 <= check_seconds("refresh_ahead", refresh_ahead) < max_age:
        raise ValueError(
            f"refresh_ahead is {refresh_ahead}; it must be at least 0 and less than max_age={max_age}"
        )


def check_cache_name(name: str, value: str) -> str:
    """Return the text if it can be a field of a cache identifier; raises `TypeError` and `ValueError`."""
    # NUL separates the fields of an identifier.
    if b"\0" in (encode_text(name, value) or b"\0"):
        raise ValueError(f"{name} must be a name without NUL characters")
    return value


def check_partition(partition: str | UUID | None) -> str:
    """Return the name of a cache partition: for None a new one, which nobody shares."""
    partition = uuid4() if partition is None else partition
    return check_cache_name("partition", str(partition) if isinstance(partition, UUID) else partition)


def check_choice(name: str, value: object, kind: type[E]) -> E:
    """Return a member of an enum; its name or value as text is accepted, too.

    Raises `TypeError` for other types, and `ValueError` with the list of values for other text.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, str):
        return check_type(name, value, kind)
    for member in kind:
        if value in (member.name, member.value):
            return member
    choices = [member.value if isinstance(member.value, str) else member.name for member in kind]
    raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
