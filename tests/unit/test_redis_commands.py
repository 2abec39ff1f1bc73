import pytest

from betcore_async.errors import ModelError
from betcore_async.redis.commands import is_repeatable, name_of, waiting_time


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "a"),
        (b"get", "a"),
        ("get", "a"),
        ("SET", "a", 1),
        ("SET", "a", 1, "PX", 5),
        ("SET", "a", 1, "ex", 5),
        ("DEL", "a"),
        ("PING",),
        ("ZRANGE", "a", 0, 1),
    ],
)
def test_harmless_commands_are_repeatable(command):
    assert is_repeatable(command)


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "a", 1, "NX"),
        ("SET", "a", 1, "PX", 5, "NX"),
        ("SET", "a", 1, "GET"),
        ("INCR", "a"),
        ("LPUSH", "a", 1),
        ("PUBLISH", "a", 1),
        ("EVALSHA", "x", 0),
        ("GETDEL", "a"),
        ("SET", "a", 1, "NX", "GET"),
        ("UNHEARD-OF",),
    ],
)
def test_whatever_may_do_more_the_second_time_is_not(command):
    assert not is_repeatable(command)


@pytest.mark.parametrize(
    ("command", "seconds"),
    [
        (("GET", "a"), None),
        (("BLPOP", "a", "b", 2), 2.0),
        (("brpop", "a", "0.5"), 0.5),
        ((b"BLMOVE", "a", "b", "LEFT", "RIGHT", 1), 1.0),
        (("BLMPOP", 3, 1, "a", "LEFT"), 3.0),
        (("WAIT", 1, 250), 0.25),
        (("XREAD", "COUNT", 1, "BLOCK", 1500, "STREAMS", "a", "$"), 1.5),
        (("XREAD", "STREAMS", "BLOCK", "$"), None),
        (("XREADGROUP", "GROUP", "g", "c", "block", 10, "STREAMS", "a", ">"), 0.01),
        (("CLIENT", "ID"), None),
        (("CLIENT",), None),
        (("BLPOP", "a", "soon"), 0.0),
        (("BLMPOP",), 0.0),
    ],
)
def test_what_waits_at_the_server_tells_for_how_long(command, seconds):
    assert waiting_time(command) == seconds


@pytest.mark.parametrize("command", [("BLPOP", "a", 0), ("XREAD", "BLOCK", 0, "STREAMS", "a", 0), ("WAIT", 1, "nan")])
def test_a_wait_for_ever_is_refused(command):
    with pytest.raises(ModelError, match="for ever"):
        waiting_time(command)


@pytest.mark.parametrize(
    "command",
    [("SELECT", 1), ("multi",), (b"SUBSCRIBE", "a"), ("CLIENT", "REPLY", "OFF"), ("client", b"tracking", "ON")],
)
def test_what_would_change_a_shared_connection_is_refused(command):
    with pytest.raises(ModelError) as error:
        waiting_time(command)
    assert error.value.field == "command"


def test_a_batch_is_named_by_its_first_command():
    assert name_of([("get", "a")]) == "GET"
    assert name_of([("incr", "a"), ("GET", "b"), ("GET", "c")]) == "INCR (and 2 more)"
