import pytest

from betcore_async.addresses import Node, Place
from betcore_async.errors import ModelError, RedisCrossSlotError
from betcore_async.redis.failures import reply_error
from betcore_async.redis.slots import SlotMap, only_slot, redirection, slot_of, slot_of_key

ASKED = Node("asked", 1)
A, B, C = Node("a", 1), Node("b", 2), Node("c", 3)


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "k"),
        (b"get", b"k"),
        ("set", "k", 1, "EX", 3),
        ("EVALSHA", "hash", 2, "k", "{k}:2", "argument"),
        ("FCALL", "name", 1, "k"),
        ("XREAD", "COUNT", 1, "BLOCK", 5, "STREAMS", "k", "0"),
        ("XREADGROUP", "GROUP", "g", "c", "streams", "k", ">"),
        ("XGROUP", "CREATE", "k", "g", "$"),
        ("BLMPOP", 1, 1, "k", "LEFT"),
        ("ZUNION", 1, "k"),
        ("SPUBLISH", "k", "message"),
        ("MEMORY", "USAGE", "k"),
        ("OTHER", "{k}", "x"),
    ],
)
def test_the_slot_of_a_command_is_that_of_its_first_key(command):
    assert slot_of(command) == slot_of_key("k") == 7629


@pytest.mark.parametrize(
    "command", [("PING",), ("EVAL", "return 1", 0), ("GET",), ("XREAD", "COUNT", 1), ("INFO", "server")]
)
def test_a_command_without_a_key_has_no_slot(command):
    assert slot_of(command) is None


def test_a_command_about_all_keys_is_refused():
    with pytest.raises(ModelError, match="KEYS"):
        slot_of(("KEYS", "*"))


def test_a_transaction_keeps_to_one_slot():
    assert only_slot([("MULTI",), ("GET", "k"), ("PING",), ("INCR", "{k}:n"), ("EXEC",)]) == slot_of_key("k")
    assert only_slot([("MULTI",), ("PING",), ("EXEC",)]) is None
    with pytest.raises(RedisCrossSlotError):
        only_slot([("MULTI",), ("GET", "k"), ("GET", "n"), ("EXEC",)])


def test_the_map_knows_owners_replicas_and_holes():
    slots = SlotMap([[0, 9, [b"a", 1, b"id"], [b"c", 3, b"id"]], [10, 16382, [b"", 2, b"id"]]], ASKED)
    unnamed = Node("asked", 2)
    assert (slots.owner(9), slots.owner(10), slots.owner(16383)) == (A, unnamed, None)
    assert slots.masters == sorted([A, unnamed])
    assert slots.replicas == {C: A}
    assert not slots.is_complete
    slots.move(16383, B)
    assert slots.is_complete
    assert B in slots.masters


def test_a_redirection_names_slot_and_server():
    assert redirection(reply_error("MOVED 7 b:2"), ASKED) == (7, B)
    assert redirection(reply_error("ASK 7 :2"), ASKED) == (7, Node("asked", 2))
    assert redirection(reply_error("MOVED 7 ::1:2"), ASKED) == (7, Node("::1", 2))


@pytest.mark.parametrize(
    ("address", "kind", "nodes", "master"),
    [
        ("a:1", "server", (A,), ""),
        ("unix:/run/s", "server", (Node("/run/s", 0),), ""),
        ("redis+sentinel://a:1,b:2/bets", "sentinel", (A, B), "bets"),
        ("redis+sentinel://a/bets", "sentinel", (Node("a", 26379),), "bets"),
        ("redis+cluster://a:1,[::1]", "cluster", (A, Node("::1", 6379)), ""),
    ],
)
def test_an_address_is_read(address, kind, nodes, master):
    assert Place.parse(address) == Place(kind, nodes, master)


@pytest.mark.parametrize(
    "address", ["", "a", "a:b", "a:1,b:2", "redis://a:1", "redis+sentinel://a:1", "redis+cluster://a:1/0", "unix:s"]
)
def test_an_address_of_no_known_form_is_refused(address):
    with pytest.raises(ValueError, match="must be host:port"):
        Place.parse(address)


def test_nodes_are_written_as_they_are_read():
    for text in ("a:1", "[::1]:2", "unix:/run/s"):
        assert str(Place.parse(text).nodes[0]) == text
