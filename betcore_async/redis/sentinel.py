"""Finds the master of the moment: asks every Sentinel, and believes the first whose master calls itself one."""

from collections.abc import Callable

from redis.exceptions import AuthenticationError, AuthorizationError
from redis.exceptions import ConnectionError as ServerConnectionError
from redis.exceptions import RedisError as ServerError

from betcore_async.addresses import Node
from betcore_async.config import RedisSettings
from betcore_async.redis.dial import ask, dial, login
from betcore_async.redis.race import AllFailedError, first_to_succeed
from betcore_async.redis.wire import Wire


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

    try:
        return await first_to_succeed(map(through, settings.place.nodes), Wire.abort)
    except AllFailedError as error:
        raise _telling(error.failures) from None


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


def _telling(failures: list[ServerError]) -> ServerError:
    """Return the failure that says most. A Sentinel that refuses us matters only when there is no other."""
    refusals = [error for error in failures if isinstance(error, AuthenticationError | AuthorizationError)]
    others = [error for error in failures if error not in refusals]
    by_master = [error for error in refusals if isinstance(error, _MasterRefusesError)]
    return (by_master or others or refusals)[-1]
