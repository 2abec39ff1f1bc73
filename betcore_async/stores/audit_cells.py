"""The audit of settled cells: the bets that a chunk says it decided are there, and were paid what it says.

There may be more: a bet that was settled by itself in the same microsecond cannot be told from those of the chunk.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from betcore_async.stores.audit_rules import Found

DECIDED = "a chunk decided what it says"

AT_A_TIME = 10_000
"""Chunks that one walk over the bets is for: memory stays small, however many there are."""

_CHUNKS = """
SELECT this.cell_id, this.chunk, CASE WHEN this.won THEN 'won' ELSE 'lost' END, coalesce(previous.upto, ''), this.upto,
    this.settled_at, this.bets, this.payout
FROM {schema}.cell_settlements AS this
JOIN {schema}.partition_meta AS meta ON this.settled_at >= meta.starts_at
LEFT JOIN {schema}.cell_settlements AS previous ON previous.cell_id = this.cell_id AND previous.chunk = this.chunk - 1
ORDER BY this.cell_id, this.chunk
"""

_DECIDED = """
SELECT cell_id, id, status, placed_at, resolved_at, payout_amount
FROM {schema}.bets
WHERE status IN ('won', 'lost')
"""


@dataclass(slots=True)
class _Chunk:
    cell_id: str
    number: int
    verdict: str
    after: str
    upto: str
    settled_at: int
    bets: int
    payout: int
    found: int = 0
    paid: int = 0


def faults(raw: sqlite3.Connection, schema: str) -> Iterator[Found]:
    """Yield the chunks settled in an attached week for which bets or payouts are missing."""
    rows = raw.execute(_CHUNKS.format(schema=schema))
    while page := [_Chunk(*row) for row in rows.fetchmany(AT_A_TIME)]:
        _count(raw, schema, page)
        for chunk in page:
            if chunk.found < chunk.bets or chunk.paid < chunk.payout:
                told = (
                    f"chunk {chunk.number} decided {chunk.bets} bets and paid {chunk.payout}, "
                    f"there are {chunk.found} with {chunk.paid}"
                )
                yield Found(DECIDED, "cell_settlements", chunk.cell_id, told)


def _count(raw: sqlite3.Connection, schema: str, page: list[_Chunk]) -> None:
    """Add to each chunk the bets that it decided: those between its ends, of its verdict and moment."""
    cells: dict[str, list[_Chunk]] = {}
    for chunk in page:
        cells.setdefault(chunk.cell_id, []).append(chunk)
    for cell_id, identifier, status, placed_at, resolved_at, payout in raw.execute(_DECIDED.format(schema=schema)):
        chunks = cells.get(cell_id)
        if chunks is None:
            continue
        at = bisect_left(chunks, identifier, key=attrgetter("upto"))
        if at == len(chunks):
            continue
        chunk = chunks[at]
        if chunk.after < identifier and chunk.verdict == status and resolved_at == max(placed_at, chunk.settled_at):
            chunk.found += 1
            chunk.paid += payout or 0
