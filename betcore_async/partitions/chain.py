"""The chain of the ledger: a transaction that wrote entries ends with a link, a SHA-256 over the link before and them.

The hash of a link is SHA-256 of the 32 bytes of the one before it, and of the entries behind that one in the order in
which they were written, as JSON arrays of at most 1,000 rows of `CHAINED` (UTF-8, no spaces between elements). So an
entry that is changed, removed or slipped in later does not fit its link, and a link that is made to fit does not fit
the next. A week begins with the last hash of the week before it, a ledger with 32 zero bytes.

Not hashed are the openings with which a week begins: they repeat what the week before ended with, so the audit compares
them with that, and a rotation need not read all of them while writers wait.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

CHAINED = "position, id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at"

ROWS_AT_A_TIME = 1000
"""Entries in one JSON array: memory stays small, however many a transaction wrote."""

_HEAD = """
SELECT seq, upto, hash
FROM {schema}.ledger_chain
WHERE seq = (SELECT max(seq) FROM {schema}.ledger_chain)
"""

_ENTRIES = f"""
SELECT {CHAINED}
FROM {{schema}}.ledger_entries
WHERE position > ? AND position <= ?
ORDER BY position
"""

_UNCHAINED = f"""
SELECT {CHAINED}
FROM ledger_entries
WHERE position > ?
ORDER BY position
"""

_APPEND = "INSERT INTO ledger_chain (seq, upto, hash) VALUES (?, ?, ?)"


@dataclass(frozen=True, slots=True)
class ChainLink:
    seq: int
    upto: int
    """Position of the last entry that it holds."""
    hash: bytes


NOTHING = ChainLink(0, 0, bytes(32))
"""Where a ledger begins that has no week before it."""


def head(raw: sqlite3.Connection, schema: str = "main") -> ChainLink:
    """Return the last link of a file."""
    row = raw.execute(_HEAD.format(schema=schema)).fetchone()
    return NOTHING if row is None else ChainLink(*row)


def extend(raw: sqlite3.Connection) -> None:
    """Write the link of what the open transaction added to the ledger, if it added anything; called last in it."""
    last = head(raw)
    linked = _sha256_of(raw.execute(_UNCHAINED, (last.upto,)), last.hash)
    if linked is not None:
        raw.execute(_APPEND, (last.seq + 1, *linked))


def hash_of(raw: sqlite3.Connection, schema: str, after: ChainLink, upto: int) -> bytes | None:
    """Return the hash that a link up to `upto` has to have behind `after`; None where there are no entries for it."""
    linked = _sha256_of(raw.execute(_ENTRIES.format(schema=schema), (after.upto, upto)), after.hash)
    return None if linked is None else linked[1]


def links(raw: sqlite3.Connection, schema: str) -> Iterator[ChainLink]:
    """Yield the links of a file in their order."""
    for row in raw.execute(f"SELECT seq, upto, hash FROM {schema}.ledger_chain ORDER BY seq"):
        yield ChainLink(*row)


def _sha256_of(entries: sqlite3.Cursor, before: bytes) -> tuple[int, bytes] | None:
    """Return the position of the last of the entries and the hash over all of them; None where there are none."""
    entries.row_factory = None  # plain tuples
    rows: list[tuple[Any, ...]] = entries.fetchmany(ROWS_AT_A_TIME)
    if not rows:
        return None
    sha256 = hashlib.sha256(before)
    while rows:
        sha256.update(orjson.dumps(rows))
        upto = rows[-1][0]
        rows = entries.fetchmany(ROWS_AT_A_TIME)
    return upto, sha256.digest()
