"""What a log line holds, and what it never does."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.config import LogSettings
from betcore_async.logs import bind_request_id, configure_logging, get_logger, request_context

JSON = LogSettings(format="json", level="debug")


@pytest.fixture(autouse=True)
def logging_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines(capsysbinary):
    def read() -> list[dict]:
        return [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]

    return read


def test_an_event_is_one_json_line_with_time_level_component_and_fields(lines):
    configure_logging(JSON)
    get_logger("settlement").info("bet settled", bet_id="b1", won=True)
    [line] = lines()
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert moment.tzinfo == UTC
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 10
    assert line == {"level": "info", "component": "settlement", "event": "bet settled", "bet_id": "b1", "won": True}


def test_events_below_the_level_are_not_written(lines):
    configure_logging(LogSettings(format="json", level="warning"))
    log = get_logger("quiet")
    log.info("no")
    logging.getLogger("quiet").info("no")
    log.warning("yes")
    logging.getLogger("quiet").warning("yes")
    assert [line["event"] for line in lines()] == ["yes", "yes"]


def test_a_logger_that_was_used_follows_a_later_configuration(lines):
    configure_logging(LogSettings(format="json", level="error"))
    log = get_logger("early")
    log.info("before")
    configure_logging(JSON)
    log.info("after")
    assert [line["event"] for line in lines()] == ["after"]


def test_configuring_twice_writes_each_event_once(lines):
    configure_logging(JSON)
    configure_logging(JSON)
    get_logger("x").info("one")
    logging.getLogger("y").warning("two")
    assert [line["event"] for line in lines()] == ["one", "two"]


def test_standard_logging_goes_the_same_way(lines):
    configure_logging(JSON)
    with request_context("request-1"):
        logging.getLogger("some.package").log(25, "%d%% done", 50)
    [line] = lines()
    del line["timestamp"]
    assert line == {"level": "info", "component": "some.package", "event": "50% done", "request_id": "request-1"}


def _login(password: str) -> None:
    raise ValueError("refused")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_holds_no_local_variables(form, capsysbinary):
    configure_logging(LogSettings(format=form))
    secret = "hunter" + str(2)  # the source line stands in the traceback, its value must not
    try:
        _login(secret)
    except ValueError:
        get_logger("door").exception("login failed")
        logging.getLogger("door").exception("login failed")
    out = capsysbinary.readouterr().out
    assert out.count(b"refused") >= 2
    assert out.count(b"_login") >= 2
    assert secret.encode() not in out


def test_an_exception_is_structured_with_its_cause_first_to_last(lines):
    configure_logging(JSON)
    try:
        try:
            _login("x")
        except ValueError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        get_logger("door").exception("failed")
    [line] = lines()
    assert [(step["exc_type"], step["exc_value"]) for step in line["exception"]] == [
        ("RuntimeError", "outer"),
        ("ValueError", "refused"),
    ]
    frame = line["exception"][1]["frames"][-1]
    assert (frame["name"], Path(frame["filename"]).name) == ("_login", "test_logs.py")
    assert "locals" not in frame


class Unshowable:
    def __str__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Decimal("1.10"), "1.10"),
        (Path("data/bets.db"), "data/bets.db"),
        (2**70, 2**70),
        ("\udcff", "\udcff"),
        ({1: "a"}, {"1": "a"}),
        (b"raw", "b'raw'"),
        (Unshowable(), "<Unshowable that cannot be shown: RuntimeError>"),
    ],
)
def test_any_value_can_be_logged(value, shown, lines):
    configure_logging(JSON)
    get_logger("x").info("event", value=value)
    assert lines()[0]["value"] == shown


def test_a_line_break_in_a_value_does_not_break_the_line(lines):
    configure_logging(JSON)
    get_logger("x").info('event\n{"level": "forged"}')
    [line] = lines()
    assert line["event"] == 'event\n{"level": "forged"}'


def test_auto_is_json_where_stdout_is_no_terminal(lines):
    configure_logging(LogSettings())
    get_logger("x").info("event")
    assert lines()[0]["event"] == "event"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_auto_is_text_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    configure_logging(LogSettings())
    get_logger("x").info("an event", symbol="BTC")
    assert "an event" in terminal.getvalue()
    assert "\x1b[" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_a_program_without_stdout_can_log(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    configure_logging(LogSettings())
    get_logger("x").info("event")


def test_a_reader_that_goes_away_does_not_fail_the_program():
    program = (
        "from betcore_async.logs import configure_logging, get_logger\n"
        "configure_logging()\n"
        "for number in range(20_000): get_logger('x').info('event', number=number)\n"
        "import os, sys\n"
        "os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"  # what Python flushes at exit
        "sys.exit(7)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=100) == 7


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=70))
def test_a_request_id_is_kept_exactly_when_it_is_valid(value):
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    valid = 8 <= len(value) <= 64 and set(value) <= allowed
    with request_context(value) as bound:
        assert (bound == value) is valid


@pytest.mark.parametrize("value", ["a" * 7, "a" * 65, "abcdefgh\n", "abcd efgh", "äöüäöüäöü", "١٢٣٤٥٦٧٨", '"; DROP --'])
def test_a_hostile_request_id_is_replaced(value):
    with request_context(value) as bound:
        assert bound != value
        assert len(bound) == 36


def test_new_request_ids_differ():
    assert bind_request_id() != bind_request_id()


def test_the_context_ends_with_the_block_and_hides_what_is_outside(lines):
    configure_logging(JSON)
    log = get_logger("x")
    structlog.contextvars.bind_contextvars(tenant="a")
    with request_context("request-1", trace_id="t"):
        structlog.contextvars.bind_contextvars(user="bob")
        log.info("inside")
    log.info("outside")
    inside, outside = lines()
    assert (inside["request_id"], inside["trace_id"], inside["user"]) == ("request-1", "t", "bob")
    assert "tenant" not in inside
    assert outside.keys() == {"timestamp", "level", "component", "event", "tenant"}


async def test_concurrent_tasks_keep_their_request_ids_apart(lines):
    configure_logging(JSON)
    everyone = asyncio.Barrier(3)

    async def handle(name: str) -> None:
        with request_context(name):
            await everyone.wait()
            get_logger("x").info(name)

    await asyncio.gather(*(handle(f"request-{number}") for number in range(3)))
    written = lines()
    assert len(written) == 3
    assert all(line["event"] == line["request_id"] for line in written)


async def test_tasks_and_threads_started_inside_inherit_the_request_id(lines):
    configure_logging(JSON)
    log = get_logger("x")
    with request_context("request-1"):
        await asyncio.gather(asyncio.create_task(asyncio.to_thread(log.info, "in a thread")))
    assert lines()[0]["request_id"] == "request-1"
