"""A query of any size, read in chunks: one reader held, and given back however its consumer leaves."""

import asyncio
import sqlite3
import warnings
from collections.abc import AsyncGenerator, Callable
from functools import partial
from types import CoroutineType
from typing import Any

from betcore_async.config import DatabaseSettings
from betcore_async.sqlite.mapping import mapper
from betcore_async.sqlite.readers import Readers
from betcore_async.sqlite.retry import retry_busy


async def stream(
    readers: Readers,
    settings: DatabaseSettings,
    query: Callable[[sqlite3.Connection], sqlite3.Cursor],
    *,
    what: str,
    chunk: int,
    as_model: type[Any] | None,
) -> AsyncGenerator[Any, None]:
    """Yield what the cursor of `query` returns; `what` names the stream in errors."""

    def start(raw: sqlite3.Connection) -> Callable[[], list[Any]]:
        cursor = query(raw)
        if as_model is None:
            return partial(cursor.fetchmany, chunk)
        make = mapper(as_model, cursor)
        return lambda: make(cursor.fetchmany(chunk))

    forgotten = False
    # Not `readers.turn()`: that is a generator too, and at its end a loop closes all generators at once, in any order.
    reader = await readers.claim()
    try:
        link = reader.link
        fetch = await retry_busy(lambda: link.run(start), settings.busy_timeout, what)
        try:
            while rows := await link.run(lambda _: fetch()):
                for row in rows:
                    yield row
        except GeneratorExit:
            forgotten = _is_being_collected()
    finally:
        await readers.release(reader)
    if forgotten:
        warnings.warn(f"{what} was left early and forgotten; use contextlib.aclosing", ResourceWarning, stacklevel=1)


def _is_being_collected() -> bool:
    """Tell whether it is the event loop that closes the generator, because nobody refers to it any more."""
    task = asyncio.current_task()
    return task is None or not isinstance(task.get_coro(), CoroutineType)  # a task of nothing but the closing
