"""Which slot of a cluster a command belongs to, and which server has the slot. Pure, no I/O."""

from collections.abc import Iterable, Sequence
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ResponseError

from betcore_async.addresses import Node
from betcore_async.errors import ModelError, RedisCrossSlotError
from betcore_async.redis.commands import Command, Value

_KEYLESS_NAMES = """
    ACL CLIENT CLUSTER COMMAND CONFIG DISCARD ECHO EXEC FUNCTION INFO LATENCY LOLWUT MULTI PING PUBLISH PUBSUB ROLE
    SCRIPT SLOWLOG TIME WAIT WAITAOF
"""
# Any server may answer these.
_KEYLESS = frozenset(_KEYLESS_NAMES.split())

# They speak of all keys, of which a server of a cluster has only some: a reply that looks whole and is not.
_WHOLE = frozenset(["DBSIZE", "FLUSHALL", "FLUSHDB", "KEYS", "MOVE", "RANDOMKEY", "SCAN", "SWAPDB"])

# Where the first key stands, if not right after the name.
_FIRST_KEY = {
    "BITOP": 2,
    "BLMPOP": 3,
    "BZMPOP": 3,
    "LMPOP": 2,
    "MEMORY": 2,
    "MIGRATE": 3,
    "MSETEX": 2,
    "OBJECT": 2,
    "SINTERCARD": 2,
    "XGROUP": 2,
    "XINFO": 2,
    "ZDIFF": 2,
    "ZINTER": 2,
    "ZINTERCARD": 2,
    "ZMPOP": 2,
    "ZUNION": 2,
}
_SCRIPTS = frozenset(["EVAL", "EVALSHA", "EVALSHA_RO", "EVAL_RO", "FCALL", "FCALL_RO"])


def slot_of(command: Command) -> int | None:
    """Return the slot of a command's first key; None when it has no key, so that any server will do.

    Raises ModelError for a command about all keys, which no server of a cluster knows.
    """
    name = str(command[0]).upper() if type(command[0]) is not bytes else command[0].decode(errors="replace").upper()
    if name in _KEYLESS:
        return None
    if name in _WHOLE:
        raise ModelError(f"{name} asks one server of a cluster only: use `client.raw`, which asks all", field="command")
    if name in _SCRIPTS:
        place = 3 if len(command) > 3 and str(command[2]) != "0" else None
    elif name in {"XREAD", "XREADGROUP"}:
        place = _after_streams(command)
    else:
        place = _FIRST_KEY.get(name, 1)
    return None if place is None or place >= len(command) else slot_of_key(command[place])


def slot_of_key(key: Value) -> int:
    """Return the slot of a key, or of the part of it that stands in braces."""
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


def only_slot(commands: Sequence[Command]) -> int | None:
    """Return the slot of commands that cannot be parted, a transaction; raises RedisCrossSlotError for several."""
    slots = {slot for command in commands if (slot := slot_of(command)) is not None}
    if len(slots) > 1:
        raise RedisCrossSlotError(
            "a transaction has to keep to one server of the cluster: give its keys a part in common, in braces,"
            " such as {user:7}:balance and {user:7}:bets",
            command="MULTI",
        )
    return next(iter(slots), None)


class SlotMap:
    """Who has which slot, as a server of the cluster told it."""

    def __init__(self, ranges: Iterable[Any], asked: Node) -> None:
        """`ranges`: the reply to CLUSTER SLOTS; a server in it that does not know its own name is the one `asked`."""
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self.replicas: dict[Node, Node] = {}
        """Each replica, with its master."""
        for first, last, *servers in ranges:
            master, *replicas = [Node(each[0].decode() if each[0] else asked.host, each[1]) for each in servers]
            self._owners[first : last + 1] = [master] * (last + 1 - first)
            self.replicas |= dict.fromkeys(replicas, master)
        self.masters = sorted({owner for owner in self._owners if owner is not None})

    @property
    def is_complete(self) -> bool:
        return None not in self._owners

    def owner(self, slot: int) -> Node | None:
        return self._owners[slot]

    def move(self, slot: int, owner: Node) -> None:
        """Take note of a new owner."""
        self._owners[slot] = owner
        if owner not in self.masters:
            self.masters = sorted({*self.masters, owner})


def redirection(error: ResponseError, asked: Node) -> tuple[int, Node]:
    """Return the slot and the server that a MOVED or ASK error names."""
    _, slot, address = str(error).split()[:3]
    host, _, port = address.rpartition(":")
    return int(slot), Node(host.strip("[]") or asked.host, int(port))


def _after_streams(command: Command) -> int | None:
    words = [part.decode(errors="replace") if isinstance(part, bytes) else str(part) for part in command]
    return next((index + 1 for index, word in enumerate(words) if word.upper() == "STREAMS"), None)
