"""Keeps the map of a cluster's slots: asks the servers for it, and again when there is reason to doubt it."""

import asyncio
import random
from collections.abc import Callable

from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError

from betcore_async.addresses import Node
from betcore_async.config import RedisSettings
from betcore_async.redis.dial import ask, login
from betcore_async.redis.failures import is_final
from betcore_async.redis.race import AllFailedError, first_to_succeed
from betcore_async.redis.slots import SlotMap

_AT_ONCE = 3
"""Servers that are asked at the same time: one that hangs holds nothing up."""

_REST = 0.1
"""Seconds from one renewal to the next, however many calls doubt the map meanwhile."""


class Chart:
    """The map of the moment. `on_new` is called after each renewal."""

    def __init__(self, settings: RedisSettings, on_new: Callable[[SlotMap], None]) -> None:
        self._settings = settings
        self._on_new = on_new
        self._renewal: asyncio.Task[ServerError | None] | None = None
        self._renewed_at = -_REST
        self._is_closed = True
        self.map: SlotMap | None = None

    def open(self) -> None:
        self._is_closed = False

    async def close(self) -> None:
        self._is_closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
            self._renewal = None

    def doubt(self) -> None:
        """Have the map renewed soon; does nothing while that is under way."""
        if (self._renewal is None or self._renewal.done()) and not self._is_closed:
            self._renewal = asyncio.create_task(self._renew(), name="betcore-redis-slots")

    async def renewed(self) -> None:
        """Return once the map was renewed; raises redis-py's error when no server could be asked."""
        self.doubt()
        if self._renewal is None:
            raise ServerConnectionError("the client was closed")
        # Others may wait for the same renewal: it is not cancelled with one of them.
        await asyncio.wait([self._renewal])
        if self._renewal.cancelled():
            raise ServerConnectionError("the client was closed")
        if (failure := self._renewal.result()) is not None:
            raise failure

    async def _renew(self) -> ServerError | None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._renewed_at + _REST - loop.time()))
        try:
            self.map = await self._read()
        except ServerError as error:
            return error
        finally:
            self._renewed_at = loop.time()
        self._on_new(self.map)
        return None

    async def _read(self) -> SlotMap:
        known = [*self.map.masters, *self.map.replicas] if self.map is not None else []
        random.shuffle(known)
        nodes = list(dict.fromkeys([*known, *self._settings.place.nodes]))
        failures: list[ServerError] = []
        for first in range(0, len(nodes), _AT_ONCE):
            try:
                return await first_to_succeed(map(self._told_by, nodes[first : first + _AT_ONCE]))
            except AllFailedError as error:
                failures += error.failures
        raise next(filter(is_final, failures), failures[-1])

    async def _told_by(self, node: Node) -> SlotMap:
        enter = login(self._settings.username, self._settings.password)
        *_, ranges = await ask(node, self._settings, [*enter, ("CLUSTER", "SLOTS")])
        slots = SlotMap(ranges, node)
        if not slots.masters:
            raise ServerConnectionError(f"no slot of the cluster has a server, says {node}")
        return slots
