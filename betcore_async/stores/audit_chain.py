"""The audit of the hash chain: every link is computed anew from the entries that it holds."""

import sqlite3
from collections.abc import Iterator
from itertools import islice

from betcore_async.partitions.chain import NOTHING, ChainLink, hash_of, head, links

HOLDS, GOES_ON = "the chain holds its entries", "the chain goes on from the week before"

_BEHIND = """
SELECT id, position
FROM {schema}.ledger_entries
WHERE position > ?
ORDER BY position
"""

_WITHIN = """
SELECT position
FROM {schema}.ledger_entries
WHERE position > ? AND position <= ?
ORDER BY position
"""

Found = tuple[str, str, str]
"""Rule, subject and detail of a violation."""


def faults(raw: sqlite3.Connection, schema: str, before: str | None, *, most: int) -> list[Found]:
    """Return what is wrong with the chain of an attached week, at most `most` faults inside it.

    `before` is the schema of the week before it, None where there is none to look at.
    """
    found = [(HOLDS, subject, detail) for subject, detail in islice(_broken_links(raw, schema), most)]
    if before is not None and (first := _beginning(raw, schema)) != (last := head(raw, before).hash):
        found.append((GOES_ON, "link 0", f"it begins at {first.hex()}, the week before ended at {last.hex()}"))
    return found


def _broken_links(raw: sqlite3.Connection, schema: str) -> Iterator[tuple[str, str]]:
    """Compare each link with what the stored one before it gives: so one fault is told once, and where it is."""
    last = NOTHING
    for link in links(raw, schema):
        if link.seq > 0:
            if link.seq != last.seq + 1:
                yield f"link {last.seq + 1}", f"is missing, link {link.seq} comes next"
            elif (computed := hash_of(raw, schema, last, link.upto)) != link.hash:
                yield f"link {link.seq}", _difference(raw, schema, last, link, computed)
        last = link
    for identifier, position in raw.execute(_BEHIND.format(schema=schema), (last.upto,)):
        yield identifier, f"entry {position} is outside of the chain, which ends at entry {last.upto}"


def _difference(raw: sqlite3.Connection, schema: str, last: ChainLink, link: ChainLink, computed: bytes | None) -> str:
    expected = last.upto + 1
    for (position,) in raw.execute(_WITHIN.format(schema=schema), (last.upto, link.upto)):
        if position != expected:
            break
        expected += 1
    if expected <= link.upto or computed is None:
        return f"holds entries {last.upto + 1} to {link.upto}, but entry {expected} is missing"
    return f"of entries {last.upto + 1} to {link.upto} is {link.hash.hex()}, they give {computed.hex()}"


def _beginning(raw: sqlite3.Connection, schema: str) -> bytes:
    first = next(links(raw, schema), NOTHING)
    return first.hash if first.seq == 0 else NOTHING.hash
