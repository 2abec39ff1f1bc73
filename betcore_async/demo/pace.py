"""Keeps the feed from running away from those who follow it."""

import asyncio
from datetime import datetime


class Pace:
    """Followers report how far they have come; the feed waits for the slowest.

    Replayed time has no speed of its own: without this the feed would be over before the first bet on it was placed.
    """

    def __init__(self) -> None:
        self._reached: dict[str, datetime | None] = {}
        self._changed = asyncio.Event()

    def join(self, name: str) -> None:
        """Add a follower; from now on the feed waits for it."""
        self._reached[name] = None

    def leave(self, name: str) -> None:
        """Take a follower out; the feed does not wait for it any more."""
        self._reached.pop(name, None)
        self._changed.set()

    def report(self, name: str, at: datetime) -> None:
        """Note that the follower is done with everything up to the tick at `at`."""
        self._reached[name] = at
        self._changed.set()

    async def wait_for(self, at: datetime) -> None:
        """Return once every follower is done with everything up to `at`."""
        while not all(reached is not None and reached >= at for reached in self._reached.values()):
            self._changed.clear()
            await self._changed.wait()
