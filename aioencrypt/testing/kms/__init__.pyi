# The public names and where they are: read by type checkers, and by `__init__.py`, which loads them.
# It has no docstring, so that editors show the one of `__init__.py`.

from .server import (
    KMSServer as KMSServer,
    main as main,
    run_in_thread as run_in_thread,
)

__all__ = ["KMSServer", "main", "run_in_thread"]
