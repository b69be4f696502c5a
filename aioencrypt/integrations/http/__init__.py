"""The HTTP logic that aiohttp and ASGI share: conditions, ranges, and decrypting into a response."""
