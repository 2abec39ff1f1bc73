"""What a LedgerEngine has to do, whatever it keeps its data in.

The tests of this folder know the protocol, the commands and the models, and nothing of any engine. To hold another one
to them, write a module beside `on_sqlite.py` that has a `deployment(folder)`, and add its name to ENGINES. The one
of `on_memory.py`, in plain Python, holds the tests themselves to asking for nothing that only SQLite has.
"""

import importlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from betcore_async.clock import ManualClock
from betcore_async.stores import LedgerEngine

ENGINES = ["on_sqlite", "on_memory"]


class Deployment(Protocol):
    """One place where data is kept, with a clock that moves by hand."""

    clock: ManualClock

    def engine(self) -> AbstractAsyncContextManager[LedgerEngine]:
        """Open an engine on the data. Opened twice at a time, they are as independent as two processes."""
        ...

    async def end_week(self, engine: LedgerEngine) -> None:
        """Let a week pass, with all that the engine does then."""
        ...


@pytest.fixture(params=ENGINES)
async def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Deployment]:
    module = importlib.import_module(f"conformance.{request.param}")
    async with module.deployment(tmp_path) as deployment:
        yield deployment


@pytest.fixture
async def engine(deployment: Deployment) -> AsyncIterator[LedgerEngine]:
    """An engine with nothing in it; whatever a test does, its books are sound at the end."""
    async with deployment.engine() as engine:
        yield engine
        report = await engine.audit(None, None)
        assert report.violations == ()
        assert report.counts["money_in"] == report.counts["money_out"]
