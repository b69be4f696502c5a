"""The public names and where they are: read by type checkers, and by `__init__.py`, which loads them."""

from .server import (
    KMSServer as KMSServer,
    main as main,
    run_in_thread as run_in_thread,
)

__all__ = ["KMSServer", "main", "run_in_thread"]
