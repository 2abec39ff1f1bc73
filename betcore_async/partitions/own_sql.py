"""SQL of the user's own over any number of weeks: what one connection answers, and what is to be asked of groups.

Synchronous: used on a scanner's thread.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from betcore_async.errors import PartitionError
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.merging import Merge, limit_of, merge_of
from betcore_async.partitions.own_select import refuse
from betcore_async.partitions.plan import Span
from betcore_async.partitions.scanner import ATTACH_LIMIT, Scanner
from betcore_async.partitions.views import Reach, attached_tables, reach_of, reading_only, select_rows, tables_of, views
from betcore_async.partitions.weeks import Weeks
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.transaction import Parameters


@dataclass(frozen=True, slots=True)
class InGroups:
    """A question that is asked of groups of files, in any order and at the same time, and whose answers are merged.

    A bet is in one group only, and stays there: what a sealed file left open is no bet of its group, whatever became of
    it later, and of the live file, which may be sealed meanwhile, all bets are.
    """

    reach: Reach
    merge: Merge
    parameters: Parameters
    limit: int | None

    @property
    def in_order(self) -> bool:
        """Whether the answers are merged, and not put one after the other."""
        return self.merge.grouped or bool(self.merge.order)

    @property
    def file_by_file(self) -> bool:
        """Whether each group is one file, and nothing is asked of another."""
        # Aggregates of a union are added up row by row behind it: measured, file by file takes half the time.
        return self.merge.grouped and "users" not in self.merge.partial.casefold()

    def groups(self) -> Iterator[Sequence[Partition]]:
        """Yield some files at a time, few enough to be attached beside the newest one, where the users are."""
        room, files = 1 if self.merge.grouped else ATTACH_LIMIT - 1, self.reach.files
        return (files[start : start + room] for start in range(0, len(files), room))


@dataclass(frozen=True, slots=True)
class Part:
    """What one group answered."""

    names: Sequence[str]
    rows: list[Row]


def ask(weeks: Weeks, spans: Sequence[Span], sql: str, parameters: Parameters) -> list[Row] | InGroups:
    """Return the rows of one SELECT over the views; where it reaches more than ten files, how to ask groups of them.

    It can read, and nothing else. Raises PartitionError where the answers of groups of files cannot be merged.
    """
    spans = spans or [Span(weeks.newest, 0, 0)]  # no week, no rows; but a count of them is 0
    reach = reach_of(weeks, spans)
    if len({file.week for file in (*reach.files, reach.newest)}) <= ATTACH_LIMIT:
        with views(weeks.scanner, reach) as raw:
            return select_rows(raw, sql, parameters)
    if not reach.whole:
        refuse("weeks missing between them, in which bets of the range may have been decided")
    merge = merge_of(sql)
    limit = limit_of(merge, parameters)
    if merge.grouped and not isinstance(parameters, Mapping):
        wanted = merge.positional + (merge.limit == "?")
        if len(parameters) != wanted:  # SQLite would not see all of them
            raise PartitionError(f"the query has {wanted} parameters; got {len(parameters)}")
        parameters = parameters[: merge.positional]  # that of LIMIT comes after them
    return InGroups(reach, merge, parameters, limit)


def ask_group(scanner: Scanner, question: InGroups, files: Sequence[Partition]) -> Part:
    if question.file_by_file:
        (file,) = files
        raw, tables = scanner.handle(file).raw, tables_of(question.reach, {file.week: "main"})
    else:
        raw, tables = scanner.link.raw, attached_tables(scanner, question.reach, files)
    # Measured: to make and drop views takes as long as to look into a small file. What was found fit to be merged is
    # one SELECT, to which WITH may be added.
    names = ", ".join(f"{name} AS ({body})" for name, body in tables.items())
    with reading_only(raw):
        cursor = raw.execute(f"WITH {names} {question.merge.partial}", question.parameters)
        return Part([column[0] for column in cursor.description], cursor.fetchall())


def keep(raw: sqlite3.Connection, part: Part) -> None:
    """Put what a group answered into the database in memory where the answer is made."""
    columns = [f"c{number}" for number in range(len(part.names))]
    if not raw.in_transaction:  # of all parts; it is never committed
        raw.execute("BEGIN")
        raw.execute(f"CREATE TABLE parts ({', '.join(columns)})")
    raw.executemany(f"INSERT INTO parts VALUES ({', '.join('?' * len(columns))})", part.rows)


def merged(raw: sqlite3.Connection, question: InGroups, names: Sequence[str]) -> list[Row]:
    """Make the answer of what was kept; `names` are those of the columns of each part."""
    with reading_only(raw):
        limit = -1 if question.limit is None else question.limit
        return raw.execute(_final(question.merge, names), {"limit": limit}).fetchall()


def _final(merge: Merge, names: Sequence[str]) -> str:
    """Return the SELECT that makes the answer of what the groups answered."""
    visible = names[: len(names) - merge.hidden]
    columns = merge.columns or [f"c{number}" for number in range(len(visible))]
    outputs = [_named(column, name) for column, name in zip(columns, merge.names or visible, strict=True)]
    sql = f"SELECT {', '.join(outputs)} FROM parts"
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
    folded = [name.casefold() for name in names]
    if isinstance(column, int):
        if not 0 <= column < len(names) - merge.hidden:
            refuse(f"ORDER BY {column + 1}")
        return f"c{column} {direction}"
    if folded.count(column) != 1:
        refuse(f"ORDER BY {column}")
    return f"c{folded.index(column)} {direction}"
