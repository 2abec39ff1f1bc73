"""How the servers are, as they tell it themselves."""

import re
from dataclasses import dataclass
from typing import Literal

from redis.exceptions import RedisError as ServerError

from betcore_async.errors import RedisCommandError, RedisError
from betcore_async.redis.cluster import Cluster
from betcore_async.redis.commands import Command
from betcore_async.redis.failures import command_error
from betcore_async.redis.transport import Transport

_REPLICA = re.compile(r"ip=(?P<ip>[^,]+),port=(?P<port>\d+),state=(?P<state>\w+)")


@dataclass(frozen=True, slots=True)
class RedisNode:
    """One server of those that hold the data."""

    address: str
    role: Literal["master", "replica"]
    ok: bool
    """Whether a master answers; whether a replica is in use: connected to its master, or held good by the cluster."""


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """Whether the server answers, and which one it is."""

    ok: bool
    address: str
    latency: float | None = None
    """Seconds that a PING took."""
    server: str | None = None
    """Kind and version, such as `redis 7.2.4` or `valkey 9.1.2`."""
    role: str | None = None
    """`master` or `slave`, as the server calls itself; None of a cluster, which has both."""
    error: str | None = None
    """Why it is not ok."""
    nodes: tuple[RedisNode, ...] = ()
    """Masters and their replicas, where there is more than one server."""


async def health_of(transport: Transport) -> RedisHealth:
    """Ask the server how it is; never raises a RedisError, but tells it."""
    address = transport.address
    started = transport.now()
    try:
        await _ask(transport, ("PING",))
        latency = transport.now() - started
        info = await _info(transport, "server") | await _info(transport, "replication")
    except RedisCommandError as error:
        return RedisHealth(ok=False, address=address, latency=transport.now() - started, error=str(error))
    except RedisError as error:
        return RedisHealth(ok=False, address=address, error=str(error))
    if isinstance(transport.route, Cluster):
        return await _cluster_health(transport, transport.route, latency, _version(info))
    return RedisHealth(
        ok=True,
        address=address,
        latency=latency,
        server=_version(info),
        role=info.get("role"),
        nodes=_nodes(transport, info),
    )


def _version(info: dict[str, str]) -> str:
    kind = "valkey" if "valkey_version" in info else "redis"
    return f"{kind} {info.get(f'{kind}_version', 'unknown')}"


async def _cluster_health(transport: Transport, cluster: Cluster, latency: float, server: str) -> RedisHealth:
    """Return how a cluster is: well, when every slot has a master and every master answers."""
    try:
        masters = await cluster.survey(transport.now() + transport.timeout)
    except ServerError as error:
        return RedisHealth(ok=False, address=transport.address, error=str(error))
    slots = cluster.map
    silent = [str(node) for node, answers in masters.items() if not answers]
    problem = f"no answer from {', '.join(silent)}" if silent else None
    if slots is None or not slots.is_complete:
        problem = problem or "not every slot has a master"
    nodes = [RedisNode(str(node), "master", ok=answers) for node, answers in masters.items()]
    if slots is not None:
        nodes += [RedisNode(str(node), "replica", ok=True) for node in slots.replicas]
    return RedisHealth(
        ok=problem is None, address=transport.address, latency=latency, server=server, error=problem, nodes=tuple(nodes)
    )


def _nodes(transport: Transport, info: dict[str, str]) -> tuple[RedisNode, ...]:
    """Return the master we are connected to, and the replicas it knows."""
    if info.get("role") != "master":
        return ()
    peers = {str(peer) for board in transport.route.boards() for peer in board.peers}
    found = [match for name, text in info.items() if name.startswith("slave") and (match := _REPLICA.match(text))]
    replicas = (RedisNode(f"{each['ip']}:{each['port']}", "replica", each["state"] == "online") for each in found)
    return (*(RedisNode(peer, "master", ok=True) for peer in sorted(peers)), *replicas)


async def _info(transport: Transport, section: str) -> dict[str, str]:
    """Return the `name:value` lines of an INFO reply."""
    text = (await _ask(transport, ("INFO", section))).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def _ask(transport: Transport, command: Command) -> bytes:
    (reply,) = await transport.run([command])
    if isinstance(reply, Exception):
        raise command_error(reply, str(command[0])) from reply
    return reply  # type: ignore[no-any-return]
