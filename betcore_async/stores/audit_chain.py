"""The audit of the hash chain: every link is computed anew from the entries that it holds."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice

from betcore_async.partitions.chain import NOTHING, ChainLink, hash_of, head, links
from betcore_async.stores.audit_rules import Found

HOLDS, GOES_ON = "the chain holds its entries", "the chain goes on from the week before"

_BEHIND = """
SELECT id, position
FROM {schema}.ledger_entries
WHERE position > ?
ORDER BY position
"""

_WITHIN = """
SELECT id, position
FROM {schema}.ledger_entries
WHERE position > ? AND position <= ?
ORDER BY position
"""

# The openings with which a week begins are all that may stand before its first link. Positions count from 1: an entry
# with a lower one was put where no link looks.
_BEFORE = """
SELECT id, position
FROM {schema}.ledger_entries
WHERE position <= ? AND (position < 1 OR ref_type <> 'carry_forward')
ORDER BY position
"""

_END = "SELECT coalesce(max(position), 0) FROM {schema}.ledger_entries"

_OLDER = """
SELECT count(*)
FROM {schema}.ledger_entries
WHERE ref_type <> 'carry_forward' AND position BETWEEN 1 AND ?
"""


def start(raw: sqlite3.Connection, before: str | None) -> bytes:
    """Return the hash with which a week has to begin; `before` is the one before it, None where there never was one."""
    return (NOTHING if before is None else head(raw, before)).hash


def faults(raw: sqlite3.Connection, schema: str, start: bytes | None, *, most: int) -> list[Found]:
    """Return what is wrong with the chain of an attached week, at most `most` faults inside it, and one at its start.

    `start` is the hash with which it has to begin; None where nobody knows.
    """
    first = _beginning(raw, schema)
    fits = start is None or first.hash == start
    openings = first.upto if fits and any(first.hash) else 0  # a beginning that is wrong is told as such
    found = list(islice(chain(_before(raw, schema, openings), _broken_links(raw, schema, start)), most))
    if start is not None and not fits:
        ended = f"the week before ended at {start.hex()}" if any(start) else "nothing is before it"
        found.append(Found(GOES_ON, "ledger_chain", "link 0", f"it begins at {first.hash.hex()}, {ended}"))
    return found


def entries_outside(raw: sqlite3.Connection, schema: str) -> int:
    """Return how many entries are older than the chain: no link holds them. Openings are not counted."""
    first = _beginning(raw, schema)
    if any(first.hash):  # it goes on from a week that had the chain, so none can be older
        return 0
    count: int = raw.execute(_OLDER.format(schema=schema), (first.upto,)).fetchone()[0]
    return count


def _beginning(raw: sqlite3.Connection, schema: str) -> ChainLink:
    """Return where the chain of a week begins: its link 0, or nothing."""
    first = next(links(raw, schema), NOTHING)
    return first if first.seq == 0 else NOTHING


def _before(raw: sqlite3.Connection, schema: str, openings: int) -> Iterator[Found]:
    """Find what was slipped in before the first link, where `openings` is the position of the last opening."""
    for identifier, position in raw.execute(_BEFORE.format(schema=schema), (openings,)):
        detail = f"entry {position} is outside of the chain, which begins behind entry {openings}"
        yield Found(HOLDS, "ledger_entries", identifier, detail)


def _broken_links(raw: sqlite3.Connection, schema: str, start: bytes | None) -> Iterator[Found]:
    """Compare each link with what the stored one before it gives: so one fault is told once, and where it is.

    Where the link behind a wrong one fits the hash that this should have had, its entries are as they were.
    """
    last, should_be, fault = NOTHING, None, None
    for link in links(raw, schema):
        fits = should_be is not None and hash_of(raw, schema, replace(last, hash=should_be), link.upto) == link.hash
        if fault is not None:
            yield fault if should_be is None or not fits else _forged(last, should_be)
        should_be, fault = None, None
        if link.seq == 0:
            should_be = start if start != link.hash else None  # told by `faults`
        elif link.seq != last.seq + 1:
            yield Found(HOLDS, "ledger_chain", f"link {last.seq + 1}", f"is missing, link {link.seq} comes next")
        elif not fits and (given := hash_of(raw, schema, last, link.upto)) != link.hash:
            should_be, fault = given, _difference(raw, schema, last, link, given)
        last = link
    if fault is not None:
        yield fault
    elif last.upto > (end := raw.execute(_END.format(schema=schema)).fetchone()[0]):
        yield Found(
            HOLDS, "ledger_chain", f"link {last.seq}", f"ends at entry {last.upto}, the last one there is {end}"
        )
    for identifier, position in raw.execute(_BEHIND.format(schema=schema), (last.upto,)):
        detail = f"entry {position} is outside of the chain, which ends at entry {last.upto}"
        yield Found(HOLDS, "ledger_entries", identifier, detail)


def _difference(raw: sqlite3.Connection, schema: str, last: ChainLink, link: ChainLink, given: bytes | None) -> Found:
    """Say as precisely as one hash allows which entry it is: the missing one, the only one, or the range."""
    expected = last.upto + 1
    for identifier, position in raw.execute(_WITHIN.format(schema=schema), (last.upto, link.upto)):
        if position != expected:
            break
        if given is not None and expected == link.upto == last.upto + 1:
            told = f"link {link.seq} of entry {position} is {link.hash.hex()}, it gives {given.hex()}"
            return Found(HOLDS, "ledger_entries", identifier, told)
        expected += 1
    if given is None or expected <= link.upto:
        return _missing(last, link, expected)
    first = last.upto + 1
    told = f"of entries {first} to {link.upto} is {link.hash.hex()}, they give {given.hex()}"
    return Found(HOLDS, "ledger_entries", f"link {link.seq}", told, (first, link.upto))


def _missing(last: ChainLink, link: ChainLink, position: int) -> Found:
    told = f"holds entries {last.upto + 1} to {link.upto}, but entry {position} is missing"
    return Found(HOLDS, "ledger_entries", f"link {link.seq}", told, (position, position))


def _forged(link: ChainLink, given: bytes) -> Found:
    told = f"is {link.hash.hex()}, its entries and the next link give {given.hex()}"
    return Found(HOLDS, "ledger_chain", f"link {link.seq}", told)
