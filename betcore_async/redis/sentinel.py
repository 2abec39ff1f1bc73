"""Finds the master of the moment: asks every Sentinel, and believes the first whose master calls itself one."""

import asyncio
from collections.abc import Callable

from redis.exceptions import AuthenticationError, AuthorizationError
from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError

from betcore_async.addresses import Node
from betcore_async.config import RedisSettings
from betcore_async.redis.dial import ask, dial, login
from betcore_async.redis.wire import Wire
from betcore_async.tasks import finish


async def dial_master(settings: RedisSettings, on_change: Callable[[Wire], None]) -> Wire:
    """Return a wire to the master; raises redis-py's errors.

    The Sentinels are asked at the same time: one that hangs, or still names the master of yesterday, costs nothing
    while another knows better.
    """
    named: set[Node] = set()

    async def through(sentinel: Node) -> Wire | None:
        master = await _master_known_to(sentinel, settings)
        if master in named:
            return None  # tried already
        named.add(master)
        try:
            return await dial(master, settings, on_change, only_master=True)
        except (AuthenticationError, AuthorizationError) as error:
            raise _MasterRefusesError(*error.args) from error

    attempts = {asyncio.create_task(through(node), name="betcore-redis-sentinel") for node in settings.place.nodes}
    winner: Wire | None = None
    try:
        winner = await _first_of(attempts)
        await finish(_give_up(attempts, winner))
    except BaseException:
        await finish(_give_up(attempts, None))
        raise
    return winner


class _MasterRefusesError(AuthenticationError):
    """It was the master, not a Sentinel, that refused the login: another Sentinel does not mend that."""


async def _master_known_to(sentinel: Node, settings: RedisSettings) -> Node:
    enter = login(settings.sentinel_username, settings.sentinel_password)
    question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", settings.place.master)
    *_, answer = await ask(sentinel, settings, [*enter, question])
    if answer is None:
        raise ServerConnectionError(f"the Sentinel at {sentinel} knows no master {settings.place.master!r}")
    host, port = answer
    return Node(host.decode(), int(port))


async def _first_of(attempts: set[asyncio.Task[Wire | None]]) -> Wire:
    failures: list[ServerError] = []
    for attempt in asyncio.as_completed(attempts):
        try:
            wire = await attempt
        except ServerError as error:
            failures.append(error)
        else:
            if wire is not None:
                return wire
    raise _telling(failures)


async def _give_up(attempts: set[asyncio.Task[Wire | None]], kept: Wire | None) -> None:
    for attempt in attempts:
        attempt.cancel()
    await asyncio.wait(attempts)
    for attempt in attempts:
        if not attempt.cancelled() and attempt.exception() is None:
            wire = attempt.result()
            if wire is not None and wire is not kept:
                wire.abort()


def _telling(failures: list[ServerError]) -> ServerError:
    """Return the failure that says most. A Sentinel that refuses us matters only when there is no other."""
    refusals = [error for error in failures if isinstance(error, AuthenticationError | AuthorizationError)]
    others = [error for error in failures if error not in refusals]
    by_master = [error for error in refusals if isinstance(error, _MasterRefusesError)]
    return (by_master or others or refusals)[-1]
