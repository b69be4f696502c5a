"""What objects that are written to share: leaving `async with` completes them, an exception discards them."""

from __future__ import annotations

from abc import abstractmethod
from types import TracebackType

from aioencrypt.errors import UnverifiedStreamError
from aioencrypt.streams.lifecycle import Life, Lifecycle


class Writer(Lifecycle):
    """Used once, in `async with`, by one task at a time. Every error is final."""

    _observed_to_last_call = True

    def __init__(self) -> None:
        super().__init__("writer")
        self._finished = False

    @abstractmethod
    async def _finish(self) -> None:
        """Write the end."""

    @property
    def _complete(self) -> bool:
        return self._finished

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is None and not self._busy:
            await self.aclose()
            return
        await self._close(exc_type or UnverifiedStreamError)
        if exc is None:
            raise UnverifiedStreamError(
                "the writer was left while another task was using it, so what was written is dropped"
            )

    async def aclose(self) -> None:
        """Write the end. After an error, drop everything and raise that error.

        Does nothing before `async with`, after `abort`, and the second time.
        """
        if self._life is not Life.OPEN:
            return
        self._check_not_busy()
        try:
            async with self._exclusive():
                await self._finish()
                self._finished = True
        except BaseException:
            await self._close()
            raise
        await self._close()

    async def abort(self) -> None:
        """Drop what is not complete, and raise nothing for it."""
        self._check_not_busy()
        if self._life is Life.OPEN:
            await self._close()
