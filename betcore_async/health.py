"""How the parts are doing, put together."""

from dataclasses import dataclass

from betcore_async.redis import HubStats, RedisHealth, RedisStats
from betcore_async.relay import RelayStats
from betcore_async.sqlite import PoolHealth, PoolStats


@dataclass(frozen=True, slots=True)
class Health:
    """Whether each part answers."""

    database: PoolHealth
    redis: RedisHealth

    @property
    def ok(self) -> bool:
        return self.database.ok and self.redis.ok


@dataclass(frozen=True, slots=True)
class Stats:
    """The counters of each part."""

    database: PoolStats
    redis: RedisStats
    hub: HubStats
    relay: RelayStats | None = None
    """None where events are not told by this process."""
