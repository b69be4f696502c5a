"""The sources that were read before: their second use must not look like an empty source."""

from __future__ import annotations

from weakref import WeakValueDictionary

# By id, because sources need not be hashable, and equal ones are not the same.
_begun: WeakValueDictionary[int, object] = WeakValueDictionary()


def remember_begun(source: object) -> None:
    """Remember that a source gave bytes, for as long as it lives."""
    try:
        _begun[id(source)] = source
    except TypeError:  # it takes no weak reference
        return


def was_begun(source: object) -> bool:
    """Tell whether a source gave bytes before."""
    return _begun.get(id(source)) is source
