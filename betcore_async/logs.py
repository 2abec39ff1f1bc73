"""Logging: one JSON line an event on stdout, or coloured text on a terminal.

    configure_logging(settings.log)             # once, by the program; a library never configures
    log = get_logger("settlement")
    log.info("bet settled", bet_id=bet.id, won=True)

Every event has `timestamp` (UTC), `level`, `component` and `event`; inside `request_context()` also `request_id` and,
where the caller is traced, `trace_id` and `span_id`. Tracebacks are structured and leave local variables out, which
may hold passwords. Records of the standard `logging` go the same way, with the name of their logger as component.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars, get_contextvars, merge_contextvars
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from betcore_async.config import LogSettings
from betcore_async.ids import IdGenerator

MAX_FRAMES = 50
"""Frames of a traceback that are kept: the outermost and the innermost half."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_DEFAULTS = LogSettings()
_new_request_id = IdGenerator()
_one_line_at_a_time = threading.Lock()
_loggers: dict[str, FilteringBoundLogger] = {}


def configure_logging(settings: LogSettings = _DEFAULTS) -> None:
    """Write events to stdout in the given format and from the given level on.

    May be called again at any time: loggers that were made or used before follow the new settings.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_text = settings.format == "console" or (settings.format == "auto" and _on_terminal())
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_text_rendering() if as_text else _json_rendering()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        logger_factory=_Output,
        cache_logger_on_first_use=True,
    )
    for logger in _loggers.values():
        vars(logger).pop("bind", None)  # where structlog's lazy proxy keeps what it made of the settings before
    _route_standard_logging(level)


def get_logger(component: str) -> FilteringBoundLogger:
    """Return the logger of a part of the program; `component` stands on each of its events."""
    if component not in _loggers:
        _loggers[component] = structlog.get_logger(component=component)
    return _loggers[component]


def bind_request_id(value: str | None = None) -> str:
    """Put a request ID on all further events of this task (and of tasks it starts), and return it.

    `value` may come from anywhere: unless it is 8 to 64 characters of `A-Z a-z 0-9 . _ -`, a new ID takes its place.
    Stays until the task ends; `request_context` takes it back at the end of a block.
    """
    request_id = value if value is not None and _REQUEST_ID.fullmatch(value) else _new_request_id()
    bind_contextvars(request_id=request_id)
    return request_id


@contextmanager
def request_context(request_id: str | None = None, **fields: str) -> Iterator[str]:
    """Bind a request ID (as `bind_request_id` does) and further fields for the block; yields the ID.

    What was bound outside does not show inside, and what is bound inside is gone afterwards.
    """
    outside = get_contextvars()
    clear_contextvars()
    try:
        bind_contextvars(**fields)
        yield bind_request_id(request_id)
    finally:
        clear_contextvars()
        bind_contextvars(**outside)


class _Output:
    """Writes whole lines to stdout. A reader that went away (`betcore … | head`) must not fail the work that logs."""

    def __init__(self, *_names: object) -> None:
        self._text = sys.stdout
        self._bytes = getattr(sys.stdout, "buffer", None)  # a replaced stdout (a notebook's, a test's) may lack it

    def msg(self, line: bytes) -> None:
        with _one_line_at_a_time, suppress(OSError, ValueError):  # ValueError: stdout was closed
            if self._bytes is not None:
                self._bytes.write(line + b"\n")
                self._bytes.flush()
            else:
                print(line.decode(errors="replace"), file=self._text, flush=True)

    debug = info = warning = error = critical = msg


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()  # None: the program was started without a stdout


def _json_rendering() -> list[Processor]:
    # structlog's ready-made `dict_tracebacks` would print local variables.
    tracebacks = ExceptionDictTransformer(show_locals=False, max_frames=MAX_FRAMES)
    return [structlog.processors.ExceptionRenderer(tracebacks), _as_json]


def _text_rendering() -> list[Processor]:
    console = structlog.dev.ConsoleRenderer(
        colors=_on_terminal(),
        # The default prints local variables where rich is installed.
        exception_formatter=structlog.dev.plain_traceback,
    )

    def as_text(logger: WrappedLogger, name: str, event: EventDict) -> bytes:
        return str(console(logger, name, event)).encode(errors="backslashreplace")

    return [as_text]


def _as_json(_logger: WrappedLogger, _name: str, event: EventDict) -> bytes:
    first = {name: event.pop(name) for name in ("timestamp", "level", "component", "event") if name in event}
    whole = {**first, **event}
    try:
        return orjson.dumps(whole, default=_as_text, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        # An int beyond 64 bits or a lone surrogate: the standard library writes them, orjson does not.
        return json.dumps(whole, default=_as_text, skipkeys=True).encode()


def _as_text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that cannot be shown must not fail the work that logs it
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _route_standard_logging(level: int) -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _IntoStructlog) for handler in root.handlers):
        root.addHandler(_IntoStructlog())
    root.setLevel(level)


class _IntoStructlog(logging.Handler):
    """Hands records of the standard `logging` on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Levels in between (25 …) count as the named one below.
            level = max(logging.DEBUG, min(record.levelno, logging.CRITICAL) // 10 * 10)
            fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
            get_logger(record.name).log(level, record.getMessage(), **fields)
        except Exception:  # noqa: BLE001 - what every logging.Handler does with its own failure
            self.handleError(record)
