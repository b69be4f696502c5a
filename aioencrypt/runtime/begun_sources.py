"""Remember which sources were read before, so that their second use does not look like an empty source."""

from __future__ import annotations

from weakref import WeakValueDictionary

# Keyed by id, because sources need not be hashable, and equal sources are not identical.
_begun: WeakValueDictionary[int, object] = WeakValueDictionary()


def remember_begun(source: object) -> None:
    """Remember that a source was read, as long as it lives."""
    try:
        _begun[id(source)] = source
    except TypeError:  # it takes no weak reference
        return


def was_begun(source: object) -> bool:
    """Tell whether a source was read before."""
    return _begun.get(id(source)) is source
