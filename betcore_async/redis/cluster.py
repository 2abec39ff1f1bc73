"""The servers of a cluster: a switchboard for each master, made and dropped as the map of the slots changes."""

import asyncio
import random
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError

from betcore_async.addresses import Node
from betcore_async.config import RedisSettings
from betcore_async.errors import RedisError
from betcore_async.redis.chart import Chart
from betcore_async.redis.commands import Value
from betcore_async.redis.dial import dial
from betcore_async.redis.errand import Errand
from betcore_async.redis.slots import SlotMap, slot_of_key
from betcore_async.redis.switchboard import Switchboard
from betcore_async.redis.wire import Call, Wire


class Cluster:
    """Where the calls of a client go whose address names a cluster."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._chart = Chart(settings, self._drop_what_left)
        self._boards: dict[Node, Switchboard] = {}
        self._leaving: list[Switchboard] = []
        self.address = settings.addr
        self.is_closed = True
        self.retries = 0
        self.doubt = self._chart.doubt

    @property
    def map(self) -> SlotMap | None:
        """Who has which slot, as far as is known."""
        return self._chart.map

    def open(self) -> None:
        self.is_closed = False
        self._chart.open()

    async def close(self) -> None:
        self.is_closed = True
        await self._chart.close()
        boards = (*self._boards.values(), *self._leaving)
        self._boards, self._leaving = {}, []
        for board in boards:
            await board.close()

    async def warm(self, count: int) -> None:
        """Have `count` connections to each master open; one that is down now is for the first call to find."""
        for node in self._masters():
            with suppress(RedisError):
                await self.board(node).warm(count)

    def boards(self) -> Collection[Switchboard]:
        return self._boards.values()

    async def replies(self, call: Call) -> list[Any]:
        return await Errand(self, call).run()

    async def dial_apart(self) -> Wire:
        """Return a connection to any master."""
        if self.map is None:
            await self._chart.renewed()
        return await self.dial_to(self.server_for(None))

    async def dial_to(self, node: Node) -> Wire:
        """Return a connection to this server, for one user; raises redis-py's errors."""
        return await dial(node, self._settings, lambda _: None)

    def together(self, keys: Sequence[Value]) -> list[list[Value]]:
        """Return the keys in groups that one command may have."""
        by_slot: dict[int, list[Value]] = {}
        for key in keys:
            by_slot.setdefault(slot_of_key(key), []).append(key)
        return list(by_slot.values())

    async def survey(self, deadline: float) -> dict[Node, bool]:
        """Renew the map, and return whether each master answers a PING; raises redis-py's error without a map."""
        await self._chart.renewed()
        pings = {
            node: self.board(node).put_through(Call([("PING",)], deadline, repeatable=True)) for node in self._masters()
        }
        try:
            await asyncio.wait(pings.values())
        finally:
            for ping in pings.values():
                ping.cancel()
        return {node: ping.exception() is None and ping.result() == [b"PONG"] for node, ping in pings.items()}

    # What errands need to know.

    async def known(self, deadline: float) -> ServerError | None:
        if self.map is None:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._chart.renewed()
            except ServerError as error:
                return error
            except TimeoutError:
                return ServerConnectionError("none of its servers says who has which slot")
        return None

    def server_for(self, slot: int | None) -> Node:
        owner = None if slot is None or self.map is None else self.map.owner(slot)
        # Of a slot that nobody has, any server will tell.
        return owner if owner is not None else random.choice(self._masters())  # noqa: S311 - not a secret

    def board(self, node: Node) -> Switchboard:
        board = self._boards.get(node)
        if board is None:
            # It does not keep trying to connect: meanwhile another server may have taken over the slots of this one.
            board = Switchboard(self._settings, lambda on_change: dial(node, self._settings, on_change), patient=False)
            board.open()
            self._boards[node] = board
        return board

    def note_owner(self, slot: int, node: Node) -> None:
        if self.map is not None:
            self.map.move(slot, node)

    def _masters(self) -> list[Node]:
        return self.map.masters if self.map is not None else []

    def _drop_what_left(self, slots: SlotMap) -> None:
        self._leaving = [board for board in self._leaving if board.is_busy]
        for node in self._boards.keys() - set(slots.masters):
            board = self._boards.pop(node)
            board.retire(node)
            self._leaving.append(board)
