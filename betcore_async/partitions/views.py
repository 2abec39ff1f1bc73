"""SQL of the user's own over several weeks, through TEMP views: one `bets`, one `ledger_entries`, one `users`.

Columns are named one by one: `SELECT *` over files with another column order would mix them up without a word.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from betcore_async.errors import PartitionError
from betcore_async.models import Bet, User
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.merging import ENTRY_COLUMNS
from betcore_async.partitions.plan import Span
from betcore_async.partitions.scanner import Scanner, deny_all_but_reading
from betcore_async.partitions.week import Week
from betcore_async.partitions.weeks import Weeks
from betcore_async.sqlite.migration_history import insist
from betcore_async.sqlite.retry import error_code
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.transaction import Parameters

_OPEN = "('pending', 'confirmed')"
_TERMS = "id, user_id, cell_id, amount, reward_ppm"
_VIEWS = ("bets", "ledger_entries", "users")
_REFUSALS = ("not authorized", "cannot modify", "You can only execute one statement")

Schemas = Mapping[Week, str]


@dataclass(frozen=True, slots=True)
class Reach:
    """The files that the bets of some spans are read from."""

    spans: Sequence[Span]
    files: Sequence[Partition]
    """Those of the spans, and those after them that may know how a bet ended; oldest first."""
    whole: bool
    """Whether each file took over what the one before it left open: then a bet is decided in one of them only."""
    newest: Partition
    """The file in which the users are."""


def reach_of(weeks: Weeks, spans: Sequence[Span]) -> Reach:
    """Return which files the bets of the spans need. Raises PartitionMissingError for one that is not here."""
    homes = [span.partition.week.starts_at for span in spans]
    files: list[Partition] = []
    left: dict[int, int] = {}  # bets that the last of the files leaves open, by home

    def took_over(file: Partition) -> bool:
        found = {home: weeks.figures(file).of_week(home) for home in homes}
        agrees = all(found[home].count == count for home, count in left.items())
        left.clear()
        left.update((home, standing.open) for home, standing in found.items() if standing.open)
        files.append(file)
        return agrees

    whole = True
    for span in spans:
        whole = took_over(span.partition) and whole
    if left:
        for holder in weeks.after(spans[-1].partition.week):
            whole = took_over(holder) and whole
            if whole and not left:
                break
    return Reach(spans, files, whole, weeks.newest)


@contextlib.contextmanager
def views(scanner: Scanner, reach: Reach) -> Iterator[sqlite3.Connection]:
    """Yield a connection on which the views show what the files of the reach have; it can read them, and no more."""
    raw = scanner.link.raw
    try:
        for name, body in attached_tables(scanner, reach, reach.files).items():
            raw.execute(f"CREATE TEMP VIEW {name} AS {body}")
        with reading_only(raw):
            yield raw
    finally:
        for name in _VIEWS:
            insist(raw, f"DROP VIEW IF EXISTS temp.{name}")


def attached_tables(scanner: Scanner, reach: Reach, files: Sequence[Partition]) -> dict[str, str]:
    """Return, by name, the SELECT of what some files of the reach have, which are attached for that."""
    schemas = {file.week: scanner.attach(file.week, file.path) for file in (*files, reach.newest)}
    users = f"SELECT {User.COLUMNS} FROM {schemas[reach.newest.week]}.users"
    return tables_of(reach, {file.week: schemas[file.week] for file in files}) | {"users": users}


def tables_of(reach: Reach, schemas: Schemas) -> dict[str, str]:
    """Return, by name, the SELECT of what is spread over some files of the reach."""
    return {
        "bets": _union(_decided(reach, schemas) if reach.whole else _completed(reach, schemas), Bet.COLUMNS),
        "ledger_entries": _union(_entries(reach, schemas), ENTRY_COLUMNS),
    }


@contextlib.contextmanager
def reading_only(raw: sqlite3.Connection) -> Iterator[None]:
    """Let the user's own SQL read, and nothing else. Raises PartitionError for what tries more."""
    raw.set_authorizer(deny_all_but_reading)
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Changing a view, a function and a pragma in the shape of a table are refused with a plain SQLITE_ERROR.
        if error_code(error) == sqlite3.SQLITE_AUTH or str(error).startswith(_REFUSALS):
            raise _no_select(str(error)) from error
        raise
    finally:
        raw.set_authorizer(None)


def select_rows(raw: sqlite3.Connection, sql: str, parameters: Parameters) -> list[Row]:
    """Return the rows of the user's own SELECT. Raises PartitionError for a text without one."""
    cursor = raw.execute(sql, parameters)
    if cursor.description is None:
        raise _no_select("there is none")
    return cursor.fetchall()


def _no_select(reason: str) -> PartitionError:
    return PartitionError(f"query() takes one SELECT over {', '.join(_VIEWS)}: {reason}")


def _union(selects: Iterator[str], columns: str) -> str:
    nothing = f"SELECT {', '.join('NULL AS ' + name for name in columns.split(', '))} WHERE 0"
    return " UNION ALL ".join(selects) or nothing


def _decided(reach: Reach, schemas: Schemas) -> Iterator[str]:
    """Select from each file the bets that were decided in it, from the last one also those that are open."""
    last = reach.files[-1].week
    window = f"placed_at >= {reach.spans[0].start} AND placed_at < {reach.spans[-1].end}"
    for one, other in pairwise(reach.spans):
        if one.end < other.start:  # the files after a week that is left out hold bets of it, too
            window += f" AND NOT (placed_at >= {one.end} AND placed_at < {other.start})"
    for week, schema in schemas.items():
        decided = "" if week == last else f" AND status NOT IN {_OPEN}"
        yield f"SELECT {Bet.COLUMNS} FROM {schema}.bets WHERE {window}{decided}"


def _completed(reach: Reach, schemas: Schemas) -> Iterator[str]:
    """Select from each file the bets of its own week, an open one completed from the newest file that has a copy."""
    for span in reach.spans:
        home, window = schemas[span.partition.week], f"placed_at >= {span.start} AND placed_at < {span.end}"
        copies = [schema for week, schema in reversed(list(schemas.items())) if week > span.partition.week]
        if not copies:
            yield f"SELECT {Bet.COLUMNS} FROM {home}.bets WHERE {window}"
            continue
        status, resolved_at, payout = (_newest(copies, name) for name in ("status", "resolved_at", "payout_amount"))
        yield f"SELECT {Bet.COLUMNS} FROM {home}.bets WHERE {window} AND status NOT IN {_OPEN}"
        yield (
            f"SELECT {_TERMS}, {status}, placed_at, {resolved_at}, {payout} "
            f"FROM {home}.bets AS home WHERE {window} AND status IN {_OPEN}"
        )


def _newest(copies: Sequence[str], column: str) -> str:
    looks = (f"(SELECT {column} FROM {copy}.bets AS copy WHERE copy.id = home.id)" for copy in copies)
    return f"coalesce({', '.join(looks)}, {column}) AS {column}"


def _entries(reach: Reach, schemas: Schemas) -> Iterator[str]:
    for span in reach.spans:
        if schema := schemas.get(span.partition.week):
            yield (
                f"SELECT {ENTRY_COLUMNS} FROM {schema}.ledger_entries "
                f"WHERE created_at >= {span.start} AND created_at < {span.end} AND ref_type <> 'carry_forward'"
            )
