"""Redis: a client, fan-out of messages to local subscribers, prices, and a private server for development and tests."""

from betcore_async.redis.client import RedisClient, RedisStats
from betcore_async.redis.embedded import EmbeddedRedis
from betcore_async.redis.events import Gap, Message, Reconnected
from betcore_async.redis.health import RedisHealth, RedisNode
from betcore_async.redis.hub import HubStats, PubSubHub
from betcore_async.redis.lock import Lock
from betcore_async.redis.pipeline import Pipeline
from betcore_async.redis.price_stream import PriceStream
from betcore_async.redis.prices import PriceCache
from betcore_async.redis.subscription import Subscription
from betcore_async.redis.ticks import decode_tick

__all__ = [
    "EmbeddedRedis",
    "Gap",
    "HubStats",
    "Lock",
    "Message",
    "Pipeline",
    "PriceCache",
    "PriceStream",
    "PubSubHub",
    "Reconnected",
    "RedisClient",
    "RedisHealth",
    "RedisNode",
    "RedisStats",
    "Subscription",
    "decode_tick",
]
