"""HTTP as aiohttp and ASGI share it: conditions, ranges, and a message as it goes into a response."""
