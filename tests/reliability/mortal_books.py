"""Books whose process dies when it is told to, while it commits or rotates, and is started again."""

import asyncio
import contextlib
import tempfile
from itertools import count
from pathlib import Path

from ledger_files import open_books, path_of
from pydantic import BaseModel
from reliability.crash_points import Crash, copied_amid, log_of

from betcore_async.clock import ManualClock
from betcore_async.errors import LedgerError

NEW_EACH_TIME = {"id", "created_at", "updated_at", "placed_at", "resolved_at"}


def terms(outcome):
    """An outcome without what changes when it was undone and comes about anew: its moment, the id of an entry."""
    if isinstance(outcome, tuple):
        return [terms(one) for one in outcome]
    if isinstance(outcome, LedgerError):
        return type(outcome)
    return outcome.model_dump(exclude=NEW_EACH_TIME) if isinstance(outcome, BaseModel) else outcome


def comparable(outcome):
    if isinstance(outcome, tuple):
        return [comparable(one) for one in outcome]
    return type(outcome) if isinstance(outcome, LedgerError) else outcome


def is_replay(outcome):
    if isinstance(outcome, tuple):
        return all(one.replayed for one in outcome if not isinstance(one, LedgerError))
    return getattr(outcome, "replayed", False)


class MortalBooks:
    """Runs what is asked for; `dies` says at which point of the next commit the process is killed."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.dies = None
        """Number of a point where its log may end, counted from the end of it backwards; None for: lives on."""
        self.deaths = 0
        self._runner = asyncio.Runner()
        self._scratch = tempfile.TemporaryDirectory()
        self._numbers = count()
        self._stack = contextlib.AsyncExitStack()
        self.folder = self._new_folder()
        self.folder.mkdir()
        self._open()

    def run(self, make, meanwhile=lambda: None):
        """Return what `make(books)` comes to; killed amid it, it is asked for again, and has to come to the same.

        `meanwhile()` is called between the start of the new process and the repeat.
        """
        if self.dies is None:
            return self._runner.run(make(self.books))
        path = path_of(self.folder, self.books.partitions.current_week.name)
        before = log_of(path)
        outcome = self._runner.run(make(self.books))
        if log_of(path) == before:
            return outcome  # it wrote nothing: what comes next is struck
        crash = Crash.while_written(path, before, self._new_folder())
        cut = crash.cuts[-1 - self.dies % len(crash.cuts)]
        happened, self.dies = cut == len(crash.after), None
        left = self._new_folder()
        crash.leave(left, cut)
        self._start_again(left)
        meanwhile()
        again = self._runner.run(make(self.books))
        assert terms(again) == terms(outcome)
        if happened:
            assert comparable(again) == comparable(outcome)
        assert outcome is None or is_replay(again) is happened
        return outcome if happened else again

    def rotate(self, step):
        """Rotate; killed before `step`, it is begun again, or brought to its end by the start. Returns the report."""
        if step is None:
            return self._runner.run(self.books.partitions.rotate_to_new_week())
        copy = self._new_folder()
        with copied_amid(self.folder, step, copy):
            report = self._runner.run(self.books.partitions.rotate_to_new_week())
        if copy.exists():
            self._start_again(copy)
            again = self._runner.run(self.books.partitions.rotate_to_new_week())
            assert again.week == report.week
        return report

    def close(self):
        self._runner.run(self._stack.aclose())
        self._runner.close()
        self._scratch.cleanup()

    def _new_folder(self):
        return Path(self._scratch.name, str(next(self._numbers)))

    def _open(self):
        self.books = self._runner.run(self._stack.enter_async_context(open_books(self.folder, self.clock)))

    def _start_again(self, folder):
        self.deaths += 1
        self._runner.run(self._stack.aclose())  # what it does to the files that were left behind does not matter
        self.folder = folder
        self._open()
        self._runner.run(self.books.assert_audit_is_clean())
