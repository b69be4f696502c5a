"""What a caller may ask of a call."""

from __future__ import annotations

import enum

import attrs
import pytest

from aioencrypt import Limits, Offload, Release, SignaturePolicy

FIELDS = ["max_header_length", "max_frame_length", "max_plaintext_length"]


def test_the_limits_there_are_by_default() -> None:
    assert attrs.asdict(Limits()) == {
        "max_header_length": 2**20,
        "max_frame_length": 64 * 2**20,
        "max_plaintext_length": None,
    }


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, 0, 1, 2**64])
def test_limits_that_are_allowed(field: str, value: int | None) -> None:
    limits = Limits(**{field: value})
    assert getattr(limits, field) == value
    others = {name: getattr(limits, name) for name in FIELDS if name != field}
    assert others == {name: getattr(Limits(), name) for name in others}


@pytest.mark.parametrize("field", FIELDS)
def test_a_negative_limit_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is -1; it must be 0 or more, or None for no limit$"):
        Limits(**{field: -1})


def test_limits_are_values() -> None:
    limits = Limits(max_frame_length=10)
    assert limits == Limits(max_frame_length=10)
    assert hash(limits) == hash(Limits(max_frame_length=10))
    assert limits != Limits()
    assert repr(limits) == (
        "Limits(max_header_length=1048576, max_frame_length=10, max_plaintext_length=None)"
    )
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        limits.max_frame_length = 11  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(10)  # type: ignore[call-arg]


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(ValueError, match="max_header_length"):
        attrs.evolve(Limits(), max_header_length=-5)


@pytest.mark.parametrize(
    ("policy", "values"),
    [
        (SignaturePolicy, {"ALLOW": "allow", "FORBID": "forbid", "REQUIRE": "require"}),
        (Release, {"STREAM": "stream", "VERIFIED": "verified"}),
        (Offload, {"AUTO": "auto", "INLINE": "inline", "THREADS": "threads"}),
    ],
)
def test_what_there_is_to_choose(policy: type[enum.Enum], values: dict[str, str]) -> None:
    """Settings in files name them by value."""
    assert {member.name: member.value for member in policy} == values
    for name, value in values.items():
        assert policy(value) is policy[name]
    with pytest.raises(ValueError, match="nothing"):
        policy("nothing")
