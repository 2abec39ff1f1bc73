"""The outbox of a weekly file: which events are still to be told, in order. Synchronous, on a connection's thread.

What moved money is told from the ledger, which has the order of all commits; what did not has a row of its own, written
by a trigger, that says behind which entry it belongs. So an event is committed with its fact, and most cost nothing.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import merge
from itertools import islice
from typing import Any

from betcore_async.models import Bet
from betcore_async.stores.events import Event, EventKind
from betcore_async.stores.rows import ENTRY_COLUMNS, entries_from_rows


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{column}" for column in columns.split(", "))


_ENTRIES = f"""
SELECT entries.position, {_of("entries", ENTRY_COLUMNS)}, {_of("bets", Bet.COLUMNS)}
FROM {{schema}}.ledger_entries AS entries
LEFT JOIN {{schema}}.bets AS bets ON bets.id = entries.ref_id AND entries.ref_type IN ('stake', 'payout', 'refund')
WHERE entries.position > ? AND entries.ref_type <> 'carry_forward'
ORDER BY entries.position
LIMIT ?
"""

_NOTED = f"""
SELECT outbox.after, outbox.seq, outbox.status, {_of("bets", Bet.COLUMNS)}
FROM {{schema}}.outbox AS outbox
JOIN {{schema}}.bets AS bets ON bets.id = outbox.bet_id
WHERE outbox.seq > ?
ORDER BY outbox.seq
LIMIT ?
"""

# Microseconds as a base: told off and on again, numbers go on growing, unless there were a million events a second.
_TURN_ON = """
INSERT OR IGNORE INTO outbox_cursor (id, week, position, seq, base)
SELECT 1, week,
    (SELECT coalesce(max(position), 0) FROM ledger_entries), (SELECT coalesce(max(seq), 0) FROM outbox), ?
FROM partition_meta
"""

_CURSOR = "SELECT week, position, seq, base FROM outbox_cursor"

_ADVANCE = """
UPDATE outbox_cursor
SET week = ?, position = ?, seq = ?, base = ?
WHERE week = ? AND position = ? AND seq = ? AND base = ?
"""

_FORGET_TOLD = """
DELETE FROM outbox
WHERE seq < (SELECT seq FROM outbox_cursor) AND (SELECT week FROM outbox_cursor) = (SELECT week FROM partition_meta)
"""

_ENTRY = slice(1, 1 + len(ENTRY_COLUMNS.split(", ")))
_BET_OF_ENTRY = slice(_ENTRY.stop, None)
_BET_OF_NOTE = slice(3, None)

_KINDS = {
    "stake": EventKind.BET_PLACED,
    "payout": EventKind.BET_WON,
    "refund": EventKind.BET_CANCELLED,
    "confirmed": EventKind.BET_CONFIRMED,
    "lost": EventKind.BET_LOST,
    "insufficient_funds": EventKind.BET_REFUSED,
}
_OPEN_THEN = {EventKind.BET_PLACED: "pending", EventKind.BET_CONFIRMED: "confirmed"}
"""Kinds after which a bet may have moved on; told is what it was."""


@dataclass(frozen=True, slots=True)
class OutboxCursor:
    """Up to where events were told."""

    week: str
    position: int
    seq: int
    base: int

    @property
    def number(self) -> int:
        return self.base + self.position + self.seq


Told = tuple[Event, OutboxCursor]
"""An event, and the cursor behind it."""


def turn_on(raw: sqlite3.Connection, now: int) -> None:
    """Begin to tell what happens from now on (microseconds); does nothing where that has begun."""
    raw.execute(_TURN_ON, (now,))


def turn_off(raw: sqlite3.Connection, _: int = 0) -> None:
    """Tell nothing any more, and forget what was not told yet."""
    raw.execute("DELETE FROM outbox_cursor")
    raw.execute("DELETE FROM outbox")


def cursor_of(raw: sqlite3.Connection) -> OutboxCursor | None:
    """Return up to where events were told; None where they are not told at all."""
    row = raw.execute(_CURSOR).fetchone()
    return None if row is None else OutboxCursor(*row)


def week_of(raw: sqlite3.Connection) -> str:
    """Return the week of a file."""
    week: str = raw.execute("SELECT week FROM partition_meta").fetchone()[0]
    return week


def successor_of(raw: sqlite3.Connection, schema: str) -> str:
    """Return the week that took over from a sealed one."""
    successor: str = raw.execute(f"SELECT successor FROM {schema}.partition_meta").fetchone()[0]
    return successor


def into_week(raw: sqlite3.Connection, schema: str, week: str, told: OutboxCursor) -> OutboxCursor:
    """Return the cursor with which an attached week begins once all of the week before it was told.

    The openings with which it begins are no events, and not looked at one by one.
    """
    (openings,) = raw.execute(f"SELECT coalesce(min(upto), 0) FROM {schema}.ledger_chain WHERE seq = 0").fetchone()
    return OutboxCursor(week, openings, 0, told.number)


def advance(raw: sqlite3.Connection, told: OutboxCursor, upto: OutboxCursor) -> None:
    """Note that what lies behind `told`, up to `upto`, was told; does nothing where somebody else moved the cursor."""
    moved = (upto.week, upto.position, upto.seq, upto.base, told.week, told.position, told.seq, told.base)
    if raw.execute(_ADVANCE, moved).rowcount:
        raw.execute(_FORGET_TOLD)


def events_behind(raw: sqlite3.Connection, schema: str, cursor: OutboxCursor, limit: int) -> list[Told]:
    """Return the next events of a file, at most `limit`, in the order in which they were committed."""
    entries = raw.execute(_ENTRIES.format(schema=schema), (cursor.position, limit)).fetchall()
    noted = raw.execute(_NOTED.format(schema=schema), (cursor.seq, limit)).fetchall()
    return list(islice(_merged(entries, noted, cursor), limit))


def _merged(entries: Sequence[Any], noted: Sequence[Any], cursor: OutboxCursor) -> Iterator[Told]:
    in_order = merge(
        ((row[0], False, row) for row in entries), ((row[0], True, row) for row in noted), key=lambda item: item[:2]
    )
    for position, is_note, row in in_order:
        cursor = replace(cursor, seq=row[1]) if is_note else replace(cursor, position=position)
        yield (_event_of_note if is_note else _event_of_entry)(row, cursor.number), cursor


def _event_of_note(row: Sequence[Any], number: int) -> Event:
    kind = _KINDS[row[2]]
    bet = _bet_then(kind, row[_BET_OF_NOTE])
    return Event.model_construct(id=f"{bet.id}:{kind}", sequence=number, kind=kind, user_id=bet.user_id, bet=bet)


def _event_of_entry(row: Sequence[Any], number: int) -> Event:
    (entry,) = entries_from_rows([row[_ENTRY]])
    kind = _KINDS.get(entry.ref_type, EventKind.BALANCE_CHANGED)
    if kind is EventKind.BALANCE_CHANGED:
        return Event.model_construct(id=entry.id, sequence=number, kind=kind, user_id=entry.user_id, entry=entry)
    bet = _bet_then(kind, row[_BET_OF_ENTRY])
    return Event.model_construct(
        id=f"{bet.id}:{kind}", sequence=number, kind=kind, user_id=entry.user_id, bet=bet, entry=entry
    )


def _bet_then(kind: EventKind, row: Sequence[Any]) -> Bet:
    status = _OPEN_THEN.get(kind)
    return Bet.from_rows([row if status is None else (*tuple(row)[:5], status, row[6], None, None)])[0]
