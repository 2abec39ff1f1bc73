"""What the pool decides without a loop or a file: which errors are waited out, for how long, and who grows old when."""

import sqlite3
from datetime import timedelta
from time import monotonic
from types import SimpleNamespace

import pytest

from betcore_async.config import DatabaseSettings
from betcore_async.sqlite.failures import is_broken, is_interrupt
from betcore_async.sqlite.raw import RawConnection
from betcore_async.sqlite.reader import LIFETIME_JITTER, Reader
from betcore_async.sqlite.retry import FIRST_DELAY, LONGEST_DELAY, backoff, is_busy

WAITED_OUT = {"BUSY": 5, "BUSY_RECOVERY": 261, "BUSY_SNAPSHOT": 517, "BUSY_TIMEOUT": 773, "LOCKED_SHAREDCACHE": 262}
NOT_WAITED_OUT = {"ERROR": 1, "LOCKED": 6, "INTERRUPT": 9, "IOERR": 10, "CONSTRAINT": 19, "PROTOCOL": 15, "none": None}


def failure(code: int | None) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("made for a test")
    if code is not None:
        error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("code", WAITED_OUT.values(), ids=WAITED_OUT)
def test_somebody_elses_lock_is_waited_out(code):
    assert is_busy(failure(code))
    assert not is_broken(failure(code))


@pytest.mark.parametrize("code", NOT_WAITED_OUT.values(), ids=NOT_WAITED_OUT)
def test_nothing_else_is_waited_out(code):
    assert not is_busy(failure(code))
    assert is_interrupt(failure(code)) is (code == 9)


def test_pauses_grow_to_their_limit_and_are_drawn_from_the_whole_range():
    for attempt, ceiling in ((1, FIRST_DELAY), (3, 4 * FIRST_DELAY), (50, LONGEST_DELAY), (10_000, LONGEST_DELAY)):
        drawn = [backoff(attempt) for _ in range(300)]
        assert 0 <= min(drawn) < 0.2 * ceiling
        assert 0.8 * ceiling < max(drawn) <= ceiling


def test_readers_of_one_age_are_not_all_replaced_at_once():
    raw = sqlite3.connect(":memory:", factory=RawConnection)
    settings = DatabaseSettings(conn_max_lifetime=timedelta(seconds=1000))
    link = SimpleNamespace(raw=raw, broken=False)
    now = monotonic()
    ages = [Reader(link, raw, settings, print).expires_at - now for _ in range(300)]
    raw.close()
    assert 1000 * (1 - LIFETIME_JITTER) <= min(ages) < 1000 * (1 - 0.8 * LIFETIME_JITTER)
    assert 1000 * (1 - 0.2 * LIFETIME_JITTER) < max(ages) <= 1001
