"""Looking at a database file without leaving a trace beside it."""

import sqlite3
from pathlib import Path

from betcore_async.sqlite.connection import open_raw


def open_to_look(path: Path) -> sqlite3.Connection:
    """Return a connection that can only read, and whose end leaves nothing beside the file that was not there before.

    Reading a file in WAL mode makes -wal and -shm, and a read-only connection leaves them behind. One that may write
    takes them away again when it is the last; where they were there already, they are not ours to take away.
    """
    alone = not any(path.with_name(path.name + side).exists() for side in ("-wal", "-journal"))
    connection = open_raw(path, readonly=not alone)
    connection.execute("PRAGMA query_only = ON")
    return connection
