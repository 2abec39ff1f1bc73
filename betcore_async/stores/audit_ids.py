"""The audit of ids over all weeks: each is used once, however far apart the weeks are.

An id carries the time of its birth, so the ids that a week can share with an earlier one are those born before it: some
from around its first midnight, and whatever a caller has kept back. Only those are looked up, week by week.
"""

import json
import sqlite3
from collections.abc import Iterable

from betcore_async.ids import first_id
from betcore_async.partitions.week import Week

ONCE = "an id is used in one week"

AT_A_TIME = 1000
"""Ids that are looked up together: memory stays small, however many there are."""

# Payouts and refunds have the id of their bet, whose home may be long ago; the rules for carried bets hold those.
_USED = """
SELECT ref_id AS id
FROM {{schema}}.ledger_entries
WHERE {entries} AND ref_type NOT IN ('carry_forward', 'payout', 'refund')
UNION
SELECT id
FROM {{schema}}.bets
WHERE {bets} AND placed_at >= (SELECT starts_at FROM {{schema}}.partition_meta)
"""

_ROW = """
SELECT 'bets', id
FROM {schema}.bets
WHERE id = :id
UNION ALL
SELECT 'ledger_entries', id
FROM {schema}.ledger_entries
WHERE ref_id = :id
LIMIT 1
"""

# As bytes an id leads on to the next page also where it is no text, and shown as something else.
_AFTER = "CAST(:after AS TEXT)"
_OLD = f"""
SELECT id, CAST(id AS BLOB)
FROM ({_USED.format(entries=f"ref_id > {_AFTER} AND ref_id < :least", bets=f"id > {_AFTER} AND id < :least")}
    ORDER BY id
    LIMIT :most
)
"""

_GIVEN = "IN (SELECT value FROM json_each(:ids))"
_THERE = _USED.format(entries=f"ref_id {_GIVEN}", bets=f"id {_GIVEN}")


def old_ids(raw: sqlite3.Connection, schema: str, week: Week, after: bytes) -> list[tuple[str, bytes]]:
    """Return the next ids behind `after` that an attached week used, born before it; each also as bytes."""
    limits = {"after": after, "least": first_id(week.start), "most": AT_A_TIME}
    return [(row[0], row[1]) for row in raw.execute(_OLD.format(schema=schema), limits)]


def used(raw: sqlite3.Connection, schema: str, ids: Iterable[str]) -> list[str]:
    """Return those of `ids` that an attached week used."""
    rows = raw.execute(_THERE.format(schema=schema), {"ids": json.dumps(list(ids))})
    return [row[0] for row in rows]


def row_of(raw: sqlite3.Connection, schema: str, identifier: str) -> tuple[str, str]:
    """Return table and id of the row that used an id: a bet, where there is one, else a ledger entry."""
    rows = raw.execute(_ROW.format(schema=schema), {"id": identifier})
    table, row_id = rows.fetchone() or ("ledger_entries", identifier)
    return table, row_id
