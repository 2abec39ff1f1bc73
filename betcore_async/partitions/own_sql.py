"""Answering SQL of the user's own over any number of weeks: as it is over ten files, group by group beyond that."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.merging import Merge, limit_of, merge_of
from betcore_async.partitions.own_select import refuse
from betcore_async.partitions.plan import Span
from betcore_async.partitions.scanner import ATTACH_LIMIT
from betcore_async.partitions.views import Reach, reach_of, reading_only, views
from betcore_async.partitions.weeks import Weeks
from betcore_async.sqlite.migration_history import insist
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.transaction import Parameters

_PARTS = "temp.parts"


def run(weeks: Weeks, spans: Sequence[Span], sql: str, parameters: Parameters) -> list[Row]:
    """Return the rows of one SELECT over the views. It can read, and nothing else.

    Raises PartitionError where more than ten files are reached and the answers of groups of them cannot be merged.
    """
    spans = spans or [Span(weeks.newest, 0, 0)]  # no week, no rows; but a count of them is 0
    reach = reach_of(weeks, spans)
    if len({file.week for file in (*reach.files, weeks.newest)}) <= ATTACH_LIMIT:
        with views(weeks, reach, reach.files) as raw:
            return raw.execute(sql, parameters).fetchall()
    if not reach.whole:
        refuse("weeks missing between them, in which bets of the range may have been decided")
    merge = merge_of(sql)
    limit = limit_of(merge, parameters)
    if merge.grouped or merge.order:
        return _merged(weeks, reach, merge, parameters, limit)
    return _one_after_the_other(weeks, reach, merge, parameters, limit)


def _groups(weeks: Weeks, reach: Reach, room: int = ATTACH_LIMIT - 1) -> Iterator[Sequence[Partition]]:
    """Yield some files at a time, to be attached beside the newest one, where the users are."""
    older = [file for file in reach.files if file.week != weeks.newest.week]
    groups = [older[start : start + room] for start in range(0, len(older), room)]
    yield from groups[:-1]
    yield [*groups[-1], weeks.newest] if len(older) < len(reach.files) else groups[-1]


def _one_after_the_other(
    weeks: Weeks, reach: Reach, merge: Merge, parameters: Parameters, limit: int | None
) -> list[Row]:
    found: list[Row] = []
    for files in _groups(weeks, reach):
        with views(weeks, reach, files) as raw:
            found += raw.execute(merge.partial, parameters).fetchall()
        if limit is not None and len(found) >= limit:
            break
    return found[:limit]


def _merged(weeks: Weeks, reach: Reach, merge: Merge, parameters: Parameters, limit: int | None) -> list[Row]:
    raw, names = weeks.scanner.link.raw, list[str]()
    if merge.grouped and not isinstance(parameters, Mapping):
        parameters = parameters[: merge.positional]  # those of LIMIT come after them
    # Aggregates of a union are added up row by row behind it: measured, file by file takes half the time.
    groups = _groups(weeks, reach, 1) if merge.grouped else _groups(weeks, reach)
    try:
        for files in groups:
            with views(weeks, reach, files) as viewing:
                cursor = viewing.execute(merge.partial, parameters)
                names, rows = [column[0] for column in cursor.description], cursor.fetchall()
            columns = [f"c{number}" for number in range(len(names))]
            raw.execute(f"CREATE TEMP TABLE IF NOT EXISTS parts ({', '.join(columns)})")
            raw.executemany(f"INSERT INTO {_PARTS} VALUES ({', '.join('?' * len(columns))})", rows)
        with reading_only(raw):
            return raw.execute(_final(merge, names), {"limit": -1 if limit is None else limit}).fetchall()
    finally:
        insist(raw, f"DROP TABLE IF EXISTS {_PARTS}")


def _final(merge: Merge, names: Sequence[str]) -> str:
    """Return the SELECT that makes the answer of what the groups answered."""
    visible = names[: len(names) - merge.hidden]
    columns = merge.columns or [f"c{number}" for number in range(len(visible))]
    outputs = [_named(column, name) for column, name in zip(columns, merge.names or visible, strict=True)]
    sql = f"SELECT {', '.join(outputs)} FROM {_PARTS}"
    if merge.keys:
        sql += f" GROUP BY {', '.join(f'c{number}' for number in range(merge.keys))}"
    if merge.order:
        sql += f" ORDER BY {', '.join(_term(merge, names, *term) for term in merge.order)}"
    return f"{sql} LIMIT :limit"


def _named(column: str, name: str) -> str:
    quoted = name.replace('"', '""')
    return f'{column} AS "{quoted}"'


def _term(merge: Merge, names: Sequence[str], column: int | str, direction: str) -> str:
    if merge.grouped:
        return f"{int(column) + 1} {direction}"
    folded: list[Any] = [name.casefold() for name in names]
    number = folded.index(column) if column in folded else column
    if not isinstance(number, int) or not 0 <= number < len(names) or folded.count(column) > 1:
        refuse(f"ORDER BY {column}")
    return f"c{number} {direction}"
