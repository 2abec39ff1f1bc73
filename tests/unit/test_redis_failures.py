import pytest
from redis import exceptions

from betcore_async.errors import (
    RedisAuthError,
    RedisCommandError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
    RedisUnavailableError,
)
from betcore_async.redis.failures import backoff, is_repeatable, translate
from betcore_async.redis.hub import PubSubHub
from betcore_async.redis.topics import Topics


@pytest.mark.parametrize(
    "command",
    [
        ("GET", "a"),
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


@pytest.mark.parametrize("attempt", [0, 1, 5, 100, 10**6])
def test_the_pause_between_attempts_is_bounded_and_grows(attempt):
    pauses = [backoff(attempt) for _ in range(200)]
    assert 0 <= min(pauses) <= max(pauses) <= min(0.5, 0.01 * 2 ** min(attempt, 16))
    assert len(set(pauses)) > 100, "jitter"


@pytest.mark.parametrize(
    ("error", "in_doubt", "kind"),
    [
        (exceptions.ConnectionError("gone"), False, RedisUnavailableError),
        (exceptions.ConnectionError("gone"), True, RedisOutcomeUnknownError),
        (exceptions.TimeoutError("late"), False, RedisTimeoutError),
        (exceptions.TimeoutError("late"), True, RedisOutcomeUnknownError),
        (exceptions.InvalidResponse("what"), False, RedisUnavailableError),
        (exceptions.InvalidResponse("what"), True, RedisOutcomeUnknownError),
        # These are answers: the server surely did nothing.
        (exceptions.AuthenticationError("no"), True, RedisAuthError),
        (exceptions.BusyLoadingError("soon"), True, RedisCommandError),
        (exceptions.ResponseError("no"), True, RedisCommandError),
        (exceptions.MaxConnectionsError("full"), False, RedisUnavailableError),
    ],
)
def test_each_failure_has_its_error(error, in_doubt, kind):
    told = translate(error, command="INCR", address="here:1", waited=1.5, in_doubt=in_doubt)
    assert type(told) is kind


def test_a_topic_left_before_its_answer_came_is_forgotten_with_the_answer():
    topics, someone = Topics("SUBSCRIBE", "UNSUBSCRIBE"), object()
    assert not topics.join("a", someone)
    assert topics.commands() == [("SUBSCRIBE", "a")]
    topics.leave("a", someone)
    assert topics.commands() == [("UNSUBSCRIBE", "a")]
    assert len(topics) == 1
    assert topics.acknowledged("a") is None
    assert len(topics) == 0
    assert topics.acknowledged("a") is None


def test_a_topic_joined_again_is_live_only_with_the_last_answer():
    topics, someone = Topics("SUBSCRIBE", "UNSUBSCRIBE"), object()
    topics.join("a", someone)
    topics.commands()
    topics.leave("a", someone)
    topics.commands()
    assert not topics.join("a", someone)
    assert topics.commands() == [("SUBSCRIBE", "a")]
    assert topics.acknowledged("a") is None
    assert topics.acknowledged("a").name == "a"
    assert topics.join("a", object())
    assert topics.commands() == []


def test_a_topic_left_and_joined_between_two_commands_is_not_mentioned():
    topics, someone = Topics("SUBSCRIBE", "UNSUBSCRIBE"), object()
    topics.join("a", someone)
    topics.commands()
    topics.acknowledged("a")
    topics.leave("a", someone)
    assert topics.join("a", someone)
    assert topics.commands() == []


def test_a_hub_is_made_without_a_loop():
    assert PubSubHub(None).stats().subscriptions == 0
