import pytest
from redis import exceptions

from betcore_async.errors import (
    RedisAuthError,
    RedisCommandError,
    RedisOutcomeUnknownError,
    RedisTimeoutError,
    RedisUnavailableError,
)
from betcore_async.redis.failures import backoff, reply_error, translate
from betcore_async.redis.hub import PubSubHub


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


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ERR max number of clients reached", exceptions.MaxConnectionsError),
        ("ERR invalid password", exceptions.AuthenticationError),
        ("ERR AUTH <password> called without any password configured", exceptions.AuthenticationError),
        ("WRONGPASS invalid username-password pair", exceptions.AuthenticationError),
        ("NOAUTH Authentication required.", exceptions.AuthenticationError),
        ("LOADING Redis is loading the dataset in memory", exceptions.BusyLoadingError),
        ("NOSCRIPT No matching script.", exceptions.NoScriptError),
        ("WRONGTYPE Operation against a key", exceptions.ResponseError),
        ("", exceptions.ResponseError),
    ],
)
def test_each_error_reply_has_its_exception(text, kind):
    error = reply_error(text)
    assert type(error) is kind
    assert str(error) == text


def test_a_hub_is_made_without_a_loop():
    assert PubSubHub(None).stats().subscriptions == 0
