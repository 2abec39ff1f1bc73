"""SQL of the user's own over several weeks, through TEMP views: one `bets`, one `ledger_entries`, one `users`.

Columns are named one by one: `SELECT *` over files with another column order would mix them up without a word.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from betcore_async.errors import PartitionError
from betcore_async.models import Bet, User
from betcore_async.partitions.plan import Span
from betcore_async.partitions.scanner import ATTACH_LIMIT, deny_all_but_reading
from betcore_async.partitions.week import Week
from betcore_async.partitions.weeks import Weeks
from betcore_async.sqlite.migration_history import insist
from betcore_async.sqlite.retry import error_code
from betcore_async.sqlite.rows import Row
from betcore_async.sqlite.transaction import Parameters

_OPEN = "('pending', 'confirmed')"
_TERMS = "id, user_id, cell_id, amount, reward_ppm"
_ENTRY = "id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at"
_VIEWS = ("bets", "ledger_entries", "users")


def run(weeks: Weeks, spans: Sequence[Span], sql: str, parameters: Parameters) -> list[Row]:
    """Return the rows of one SELECT over the views. It can read, and nothing else.

    Raises PartitionError when the spans, and the weeks after them that may hold outcomes, are more than ten files.
    """
    spans = spans or [Span(weeks.newest, 0, 0)]  # no week, no rows; but a count of them is 0
    reached = [*(span.partition for span in spans), *weeks.after(spans[-1].partition.week)]
    if len(reached) > ATTACH_LIMIT:
        raise PartitionError(
            f"the range reaches {len(reached)} weekly files up to the live one, SQLite attaches {ATTACH_LIMIT}; "
            "narrow it, or use query_bets, count_bets and sum_bets, which have no such limit",
            weeks=tuple(partition.week for partition in reached),
        )
    schemas = {partition.week: weeks.scanner.attach(partition.week, partition.path) for partition in reached}
    raw = weeks.scanner.link.raw
    try:
        for name, body in _bodies(schemas, spans).items():
            raw.execute(f"CREATE TEMP VIEW {name} AS {body}")
        raw.set_authorizer(deny_all_but_reading)
        return raw.execute(sql, parameters).fetchall()
    except sqlite3.DatabaseError as error:
        # Changing a view, a function and a pragma in the shape of a table are refused with a plain SQLITE_ERROR.
        if error_code(error) == sqlite3.SQLITE_AUTH or str(error).startswith(("not authorized", "cannot modify")):
            raise PartitionError(f"query() takes one SELECT over {', '.join(_VIEWS)}: {error}") from error
        raise
    finally:
        raw.set_authorizer(None)
        for name in _VIEWS:
            insist(raw, f"DROP VIEW IF EXISTS temp.{name}")


def _bodies(schemas: Mapping[Week, str], spans: Sequence[Span]) -> dict[str, str]:
    newest = list(schemas.values())[-1]
    bets = (_bets(schemas, span) for span in spans)
    entries = (
        f"SELECT {_ENTRY} FROM {schemas[span.partition.week]}.ledger_entries "
        f"WHERE created_at >= {span.start} AND created_at < {span.end} AND ref_type <> 'carry_forward'"
        for span in spans
    )
    return {
        "bets": " UNION ALL ".join(bets),
        "ledger_entries": " UNION ALL ".join(entries),
        "users": f"SELECT {User.COLUMNS} FROM {newest}.users",
    }


def _bets(schemas: Mapping[Week, str], span: Span) -> str:
    """Select a week's own bets, an open one completed from the newest file that has a copy."""
    home = schemas[span.partition.week]
    window = f"placed_at >= {span.start} AND placed_at < {span.end}"
    copies = [schema for week, schema in reversed(list(schemas.items())) if week > span.partition.week]
    if not copies:
        return f"SELECT {Bet.COLUMNS} FROM {home}.bets WHERE {window}"

    def newest(column: str) -> str:
        looks = (f"(SELECT {column} FROM {copy}.bets AS copy WHERE copy.id = home.id)" for copy in copies)
        return f"coalesce({', '.join(looks)}, {column}) AS {column}"

    outcome = ", ".join(("placed_at", *(newest(column) for column in ("resolved_at", "payout_amount"))))
    return (
        f"SELECT {Bet.COLUMNS} FROM {home}.bets WHERE {window} AND status NOT IN {_OPEN} UNION ALL "
        f"SELECT {_TERMS}, {newest('status')}, {outcome} FROM {home}.bets AS home WHERE {window} AND status IN {_OPEN}"
    )
