"""Where Redis is, as one text: a server, Sentinels that know it, or nodes of a cluster. Never holds a password."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qs, unquote

FORMS = "host:port, unix:/path/to.sock, redis+sentinel://host:port,…/master or redis+cluster://host:port,…"

_SENTINEL = "redis+sentinel"
_CLUSTER = "redis+cluster"
_PORTS = {"redis": 6379, _SENTINEL: 26379, _CLUSTER: 6379}


class Node(NamedTuple):
    """One server: a host and its port, or the path of a Unix socket and 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Place:
    """What an address names."""

    kind: Literal["server", "sentinel", "cluster"]
    nodes: tuple[Node, ...]
    """The server; or the Sentinels, or nodes of the cluster, of which one that answers is enough to find the rest."""
    master: str = ""
    """With Sentinels: what they call the master and its replicas."""

    @classmethod
    def parse(cls, address: str) -> Self:
        """Return what `address` names; raises ValueError, with a text that shows no part of a password."""
        if address.startswith("unix:"):
            if not address.startswith("unix:/"):
                raise ValueError(f"must be {FORMS}")
            return cls("server", (Node(address.removeprefix("unix:"), 0),))
        scheme, has_scheme, rest = address.partition("://")
        if not has_scheme:
            return cls("server", (_node(address, None),))
        if "@" in rest or "?" in rest:
            raise ValueError("takes no user or password, because it is shown in logs: they have settings of their own")
        hosts, _, path = rest.partition("/")
        if scheme == _SENTINEL and path and "/" not in path:
            return cls("sentinel", _nodes(hosts, scheme), path)
        if scheme == _CLUSTER and not path:
            return cls("cluster", _nodes(hosts, scheme))
        raise ValueError(f"must be {FORMS}")


def read_url(url: str) -> dict[str, Any]:
    """Return what a Redis URL says, under the names of RedisSettings; raises ValueError for any other form."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    hosts_and_login, _, path = rest.partition("/")
    login, _, hosts = hosts_and_login.rpartition("@")
    user, _, password = login.partition(":")
    kind = scheme.replace("rediss", "redis", 1)
    fields: dict[str, Any] = {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "tls": scheme.startswith("rediss"),
        "db": 0,
    }
    if scheme == "unix":
        return fields | {"addr": f"unix:/{path}"}
    if kind not in _PORTS or not hosts:
        raise ValueError("unknown form")
    nodes = ",".join(map(str, _nodes(hosts, kind)))
    if kind == _SENTINEL:
        master, _, path = path.partition("/")
        fields |= {"addr": f"{kind}://{nodes}/{unquote(master)}"} | _sentinel_login(query)
    else:
        fields |= {"addr": nodes if kind == "redis" else f"{kind}://{nodes}"}
    return fields | {"db": int(path.strip("/") or "0")}


def _sentinel_login(query: str) -> dict[str, str]:
    given = parse_qs(query, strict_parsing=True) if query else {}
    if not given.keys() <= {"sentinel_username", "sentinel_password"}:
        raise ValueError("unknown option")
    return {name: values[-1] for name, values in given.items()}


def _nodes(hosts: str, scheme: str) -> tuple[Node, ...]:
    return tuple(_node(host, _PORTS[scheme]) for host in hosts.split(","))


def _node(text: str, default_port: int | None) -> Node:
    host, colon, port = text.rpartition(":")
    if default_port is not None and (not colon or text.endswith("]")):
        host, port = text, str(default_port)
    # Ports are 16 bits.
    if not (host and "," not in host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"must be {FORMS}")
    return Node(host.removeprefix("[").removesuffix("]"), int(port))
