"""One reading connection and what its thread does in a hop."""

import random
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from betcore_async.config import DatabaseSettings
from betcore_async.sqlite.connection import COMMON_PRAGMAS, READER_PRAGMAS, Link
from betcore_async.sqlite.failures import is_broken, plain, translated
from betcore_async.sqlite.raw import RawConnection
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.waiting import Job, Line

Answer = tuple[Job, Any, BaseException | None]

HOP_TIME = 0.001
"""Seconds after which a hop takes no further read along, so that answers are not kept back."""
HOP_READS = 64
LIFETIME_JITTER = 0.1
"""Share of the lifetime that is drawn at random, so that readers are not all replaced at once."""


class Reader:
    """One reading connection."""

    def __init__(
        self, link: Link, raw: RawConnection, settings: DatabaseSettings, work: "Callable[[Reader], None]"
    ) -> None:
        self.link = link
        self.hop = partial(work, self)
        """What its thread does in a hop."""
        self.answers: deque[Answer] = deque()
        """Filled by the thread, emptied by the loop."""
        self._raw = raw
        lifetime = settings.conn_max_lifetime.total_seconds()
        self.expires_at = monotonic() + lifetime * (1 - random.uniform(0, LIFETIME_JITTER))  # noqa: S311

    def serve(self, line: Line) -> None:
        """On the thread: run reads from the head of the line and leave their answers. Never raises."""
        answers, begun, ends = self.answers, 0.0, monotonic() + HOP_TIME
        for _ in range(HOP_READS):
            if (job := line.take_job()) is None:
                break
            try:
                if job.snapshot or len(line) or self._raw.in_transaction:
                    begun = self._snapshot(job, begun)
                answers.append((job, self._read(job), None))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the caller
                self.link.broken = self.link.broken or is_broken(error)
                answers.append((job, None, translated(error)))
            if not len(line) or monotonic() >= ends or self.link.broken:
                break
        try:
            if self._raw.in_transaction:
                sqlite3.Connection.execute(self._raw, "ROLLBACK")
        except sqlite3.Error:
            self.link.broken = True

    def _snapshot(self, job: Job, begun: float) -> float:
        """Begin a snapshot for this read and those behind it; return when it was begun.

        One snapshot serves many reads, which saves each its own, but never one that was asked for after the snapshot
        began: its caller may have written meanwhile, and must see that.
        """
        raw = self._raw
        if raw.in_transaction:
            if job.enqueued_at < begun:
                return begun
            sqlite3.Connection.execute(raw, "ROLLBACK")
        begun = monotonic()
        sqlite3.Connection.execute(raw, "BEGIN")
        return begun

    def _read(self, job: Job) -> Any:
        try:
            return plain(self.link.perform(job))
        finally:
            self._raw.close_cursors()
            self._raw.row_factory = Row
            self._raw.text_factory = str

    def restore(self) -> None:
        """On the thread: undo what a borrower may have done to the connection. Raises where that cannot be done."""
        raw = self._raw
        raw.close_cursors()
        if raw.in_transaction:
            raw.execute("ROLLBACK")
        if len(raw.execute("PRAGMA database_list").fetchall()) > 1:
            raise sqlite3.OperationalError("a file was left attached")  # seen by the pool alone, which drops the reader
        raw.isolation_level = None
        raw.row_factory, raw.text_factory = Row, str
        raw.set_authorizer(None)
        raw.set_trace_callback(None)
        raw.set_progress_handler(None, 0)
        for name, value in (*COMMON_PRAGMAS, *READER_PRAGMAS, *_BORROWED):
            raw.execute(f"PRAGMA {name} = {value}")
        raw.close_cursors()


_BORROWED = (
    ("busy_timeout", "0"),  # waiting is done in asyncio
    ("case_sensitive_like", "OFF"),
)
"""Settings that are right as they come, and are put back after somebody had the connection."""
