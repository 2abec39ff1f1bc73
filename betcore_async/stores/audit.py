"""The audit: every promise of the ledger, as a query that finds the rows which break it."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from betcore_async.errors import PartitionDamagedError, PartitionMissingError
from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.manager import PartitionManager
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.plan import missing_error
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week
from betcore_async.sqlite.retry import is_busy
from betcore_async.stores import audit_chain, audit_ids
from betcore_async.stores.audit_report import AuditReport, Violation
from betcore_async.stores.audit_rules import ACROSS, WITHIN
from betcore_async.stores.audit_sums import WeekSums, add_up, sums_of

Catalog = Mapping[Week, Partition]

MOST_PER_RULE = 10
"""Violations of one rule that are reported per week; the first says enough, and a report stays small."""


@dataclass(frozen=True, slots=True)
class _Audited:
    violations: list[Violation]
    sums: WeekSums | None
    """None where the file could not be read."""


async def run(
    partitions: PartitionManager,
    weeks: Sequence[Week] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Check every file, and every hand-over between two files; each file in one read snapshot.

    `weeks` limits it to some weeks: each with its hand-over from the week before. Raises PartitionMissingError for one
    that is not here, PartitionArchivedError for one that was archived; without `weeks` those are left out.
    `progress(done, of)` is called after each file.
    """
    catalog = await partitions.scan(lambda _, catalog: catalog)
    archived = tuple(week for week, entry in catalog.items() if entry.state is PartitionState.ARCHIVED)
    chosen = sorted(catalog.keys() - set(archived) if weeks is None else set(weeks))
    if away := tuple(week for week in chosen if week in archived):
        raise missing_error(catalog, away, optional=False)
    if unknown := tuple(week for week in chosen if week not in catalog):
        names = ", ".join(week.name for week in unknown)
        raise PartitionMissingError(f"there is no file for {names}, so nothing to audit", weeks=unknown)
    violations: list[Violation] = []
    sums: dict[Week, WeekSums] = {}
    for done, week in enumerate(chosen, start=1):
        audited = await partitions.scan(partial(_audit_week, week=week))
        violations += audited.violations
        if audited.sums is not None:
            sums[week] = audited.sums
        if progress is not None:
            progress(done, len(chosen))
    return AuditReport(tuple(violations), add_up(sums))


def _audit_week(scanner: Scanner, catalog: Catalog, *, week: Week) -> _Audited:
    # As the catalog is now: since the audit began, a week may have been archived or moved away.
    entry = catalog.get(week)
    if entry is None:
        return _Audited([Violation(week.name, "the file can be read", week.name, "it is not here any more")], None)
    if entry.state is PartitionState.ARCHIVED:
        return _Audited([], None)
    return _audit_file(scanner, catalog, entry=entry)


def _audit_file(scanner: Scanner, catalog: Catalog, *, entry: Partition) -> _Audited:
    if entry.state is PartitionState.DAMAGED:
        return _unreadable(entry, entry.problem)
    before = catalog.get(entry.predecessor) if entry.predecessor else None
    try:
        names, rules = {"this": scanner.attach(entry.week, entry.path)}, dict(WITHIN)
        if before is not None and before.state is PartitionState.SEALED:
            names["before"] = scanner.attach(before.week, before.path)
            rules |= ACROSS
        audited = _in_one_snapshot(scanner.link.raw, entry, names, rules)
    except (sqlite3.DatabaseError, PartitionDamagedError) as error:
        if is_busy(error) or _is_interrupt(error):
            raise
        return _unreadable(entry, str(error))
    audited.violations.extend(islice(_used_before(scanner, catalog, entry), MOST_PER_RULE))
    is_archived = before is not None and before.state is PartitionState.ARCHIVED  # intact, as `verify` can prove
    if entry.predecessor is not None and "before" not in names and not is_archived:
        gone = Violation(entry.week.name, "the week before is there", entry.predecessor.name, "it cannot be read")
        audited.violations.append(gone)
    return audited


def _used_before(scanner: Scanner, catalog: Catalog, entry: Partition) -> Iterator[Violation]:
    """Find ids of the week in all weeks before it that can be read; of the others their own audit tells."""
    raw, last = scanner.link.raw, ""
    while ids := audit_ids.old_ids(raw, scanner.attach(entry.week, entry.path), entry.week, last):
        last = ids[-1]
        for week, earlier in sorted(catalog.items(), key=lambda item: item[0]):
            if week < entry.week and earlier.state is PartitionState.SEALED:
                for identifier in _used_in(scanner, earlier, ids):
                    yield Violation(entry.week.name, audit_ids.ONCE, identifier, f"was used in {week} already")


def _used_in(scanner: Scanner, entry: Partition, ids: list[str]) -> list[str]:
    try:
        return audit_ids.used(scanner.link.raw, scanner.attach(entry.week, entry.path), ids)
    except (sqlite3.DatabaseError, PartitionDamagedError) as error:
        if is_busy(error) or _is_interrupt(error):
            raise
        return []


def _in_one_snapshot(
    raw: sqlite3.Connection, entry: Partition, names: dict[str, str], rules: dict[str, str]
) -> _Audited:
    week = entry.week.name
    raw.execute("BEGIN")
    try:
        found: list[Violation] = []
        for rule, sql in rules.items():
            found += [Violation(week, rule, str(row[0]), str(row[1])) for row in _broken(raw, sql.format(**names))]
        chain = audit_chain.faults(raw, names["this"], names.get("before"), most=MOST_PER_RULE)
        found += [Violation(week, *fault) for fault in chain]
        sums = sums_of(raw, names["this"], entry.predecessor)
    finally:
        raw.execute("ROLLBACK")
    if sums.money_in != sums.money_out:
        detail = f"{sums.money_in} was there or came in, {sums.money_out} went out or is held"
        found.append(Violation(week, "money in == money out", week, detail))
    return _Audited(found, sums)


def _broken(raw: sqlite3.Connection, sql: str) -> list[tuple[object, object]]:
    try:
        return raw.execute(f"SELECT * FROM ({sql}) LIMIT {MOST_PER_RULE}").fetchall()
    except sqlite3.OperationalError as error:
        if "integer overflow" not in str(error):
            raise
        return [("", f"the sums leave 64 bits: {error}")]  # amounts that no guarded write lets in


def _unreadable(entry: Partition, problem: str) -> _Audited:
    return _Audited([Violation(entry.week.name, "the file can be read", str(entry.path), problem)], None)


def _is_interrupt(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT
