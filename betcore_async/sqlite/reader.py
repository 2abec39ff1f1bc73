"""One reading connection and what its thread does in a hop."""

import contextlib
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
"""Seconds after which a hop begins no further read, so that answers are not kept back."""
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
        self.tally = raw.tally
        self.hop_began = 0.0
        self.lent_at = 0.0
        self.taken: deque[Job] = deque()
        """Reads of the hop that have not begun; the thread takes from the left, the loop takes back from the right."""
        self._raw = raw
        lifetime = settings.conn_max_lifetime.total_seconds()
        self.expires_at = monotonic() + lifetime * (1 - random.uniform(0, LIFETIME_JITTER))  # noqa: S311

    def serve(self, line: Line) -> None:
        """On the thread: run reads from the head of the line and leave their answers. Never raises.

        The reads are taken in one go, and share one snapshot, which saves each its own. It begins after the last of
        them was asked for, so that each sees everything written before.
        """
        taken, answers, perform, waited, fetches = self.taken, self.answers, self.link.perform, 0.0, 0
        started = now = monotonic()
        taken.extend(line.take_jobs(HOP_READS))
        together = len(taken) > 1
        while True:
            try:
                job = taken.popleft()
            except IndexError:  # also when the loop has just taken back the last one
                break
            if not job.attempts:
                waited += now - job.enqueued_at
            fetches += not job.snapshot
            try:
                if (together or job.snapshot) and not self._raw.in_transaction:
                    sqlite3.Connection.execute(self._raw, "BEGIN")
                answers.append((job, self._tidily(job) if job.snapshot else perform(job), None))
            except BaseException as error:  # noqa: BLE001 - whatever it is, it goes to the caller
                self.link.broken = self.link.broken or is_broken(error)
                answers.append((job, None, translated(error)))
            now = monotonic()
            if self.link.broken or now >= started + HOP_TIME:
                break
        try:
            if self._raw.in_transaction:
                sqlite3.Connection.execute(self._raw, "ROLLBACK")
        except sqlite3.Error:
            self.link.broken = True
        tally = self.tally
        tally.waited += waited
        tally.statements += fetches  # one each, past the tracking of cursors
        tally.used += now - started

    def _tidily(self, job: Job) -> Any:
        """Run a function of the caller, and leave nothing of it behind."""
        try:
            return plain(self.link.perform(job))
        finally:
            self._raw.close_cursors()
            self._raw.row_factory = Row
            self._raw.text_factory = str

    def take_back(self) -> list[Job]:
        """On the loop: take back, in their order, the reads of the hop that have not begun."""
        jobs: list[Job] = []
        with contextlib.suppress(IndexError):
            while True:
                jobs.append(self.taken.pop())
        return jobs[::-1]

    def restore(self) -> None:
        """On the thread: undo what a borrower may have done to the connection. Raises where that cannot be done."""
        raw = self._raw
        run = partial(sqlite3.Connection.execute, raw)
        raw.close_cursors()
        if raw.in_transaction:
            run("ROLLBACK")
        if len(run("PRAGMA database_list").fetchall()) > 1:
            raise sqlite3.OperationalError("a file was left attached")  # seen by the pool alone, which drops the reader
        raw.isolation_level = None
        raw.row_factory, raw.text_factory = Row, str
        raw.set_authorizer(None)
        raw.set_trace_callback(None)
        raw.set_progress_handler(None, 0)
        for name, value in (*COMMON_PRAGMAS, *READER_PRAGMAS, *_BORROWED):
            run(f"PRAGMA {name} = {value}")


_BORROWED = (
    ("busy_timeout", "0"),  # waiting is done in asyncio
    ("case_sensitive_like", "OFF"),
)
"""Settings that are right as they come, and are put back after somebody had the connection."""
