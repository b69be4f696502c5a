"""Streams that encrypt and decrypt; the types of what they read from and write to."""

import lazy_loader

# The names stand in __init__.pyi.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
