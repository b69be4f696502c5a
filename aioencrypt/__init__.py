"""The AWS Encryption SDK for asyncio.

::

    async with encrypt_stream(reader, provider, encryption_context={"tenant": "42"}) as stream:
        async for chunk in stream:
            await sink.write(chunk)

A *provider* supplies master keys, a *master key* encrypts data keys, and a *data key* encrypts one message.
"""

import logging

import lazy_loader

__version__ = "0.1.0"

# __init__.pyi lists the names. A module is imported when one of its names is first used, so a program loads
# only the kinds of keys that it uses.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
# `from aioencrypt import *` leaves the builtins open and format alone, and imports no modules.
_MODULES = {"aws", "branch_keys", "format", "inspection", "materials", "rewrap", "streams"}
__all__ = [*(name for name in __all__ if name != "open" and name not in _MODULES), "__version__"]

logging.getLogger(__name__).addHandler(logging.NullHandler())
