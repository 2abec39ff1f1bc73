"""The audit: every promise of the ledger, as a query that finds the rows which break it."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from betcore_async.stores import audit_cells, audit_chain, audit_ids
from betcore_async.stores.audit_accounts import Accounts
from betcore_async.stores.audit_hand_over import ACROSS
from betcore_async.stores.audit_report import AuditReport, Unchecked, Violation
from betcore_async.stores.audit_rules import WITHIN, Found
from betcore_async.stores.audit_sums import WeekSums, add_up, sums_of

Catalog = Mapping[Week, Partition]

IN_AND_OUT = "money in == money out"

MOST_PER_RULE = 10
"""Violations of one rule that are reported per week; the first says enough, and a report stays small."""


@dataclass(slots=True)
class _Audited:
    """What the audit of one week came to."""

    entry: Partition
    violations: list[Violation] = field(default_factory=list)
    unchecked: list[Unchecked] = field(default_factory=list)
    sums: WeekSums | None = None
    """None where the file could not be read."""

    def tell(self, found: Found, positions: tuple[int, int] | None = None) -> None:
        rule, table, subject, detail, within = found
        week, path = self.entry.week.name, self.entry.path
        self.violations.append(Violation(week, rule, subject, detail, path, table, within or positions))

    def leave(self, what: str) -> None:
        self.unchecked.append(Unchecked(self.entry.week.name, what))


async def run(
    partitions: PartitionManager,
    weeks: Sequence[Week] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Check every file, and every hand-over between two files; each file in one read snapshot.

    `weeks` limits it to some weeks: each with its hand-over from the week before. Raises PartitionMissingError for one
    that is not here, PartitionArchivedError for one that was archived; without `weeks` those are `unchecked`.
    `progress(done, of)` is called after each file.
    """
    catalog = await partitions.scan(lambda _, catalog: catalog)
    chosen = _chosen(catalog, weeks)
    audits = []
    for done, week in enumerate(chosen, start=1):
        audits.append(await partitions.scan(partial(_audit_week, entry=catalog[week])))
        if progress is not None:
            progress(done, len(chosen))
    return AuditReport(
        tuple(violation for audited in audits for violation in audited.violations),
        add_up({audited.entry.week: audited.sums for audited in audits if audited.sums is not None}),
        tuple(unchecked for audited in audits for unchecked in audited.unchecked),
    )


def _chosen(catalog: Catalog, weeks: Sequence[Week] | None) -> list[Week]:
    if weeks is None:
        return sorted(catalog)
    chosen = sorted(set(weeks))
    if away := tuple(week for week in chosen if week in catalog and catalog[week].state is PartitionState.ARCHIVED):
        raise missing_error(catalog, away, optional=False)
    if unknown := tuple(week for week in chosen if week not in catalog):
        names = ", ".join(week.name for week in unknown)
        raise PartitionMissingError(f"there is no file for {names}, so nothing to audit", weeks=unknown)
    return chosen


def _audit_week(scanner: Scanner, catalog: Catalog, *, entry: Partition) -> _Audited:
    raw = scanner.link.raw
    try:
        return _looked_at(scanner, catalog, entry)
    except sqlite3.OperationalError as error:
        if not _is_no_text(error):
            raise
    # Bytes that are no text stand somewhere. Shown as U+FFFD they fit nothing, so that the rules find their row.
    raw.text_factory = _shown
    try:
        return _looked_at(scanner, catalog, entry)
    finally:
        raw.text_factory = str


def _shown(text: bytes) -> str:
    return text.decode(errors="replace")


def _looked_at(scanner: Scanner, catalog: Catalog, entry: Partition) -> _Audited:
    # As the catalog is now: since the audit began, a week may have been archived or moved away.
    audited = _Audited(catalog.get(entry.week, entry))
    if entry.week not in catalog:
        audited.tell(_unreadable(entry, "it is not here any more"))
    elif audited.entry.state is PartitionState.ARCHIVED:
        audited.leave("all of it: it is in the archive")
    elif audited.entry.state is PartitionState.DAMAGED:
        audited.tell(_unreadable(entry, audited.entry.problem))
    else:
        _audit_file(scanner, catalog, audited)
    return audited


def _audit_file(scanner: Scanner, catalog: Catalog, audited: _Audited) -> None:
    entry = audited.entry
    before = catalog.get(entry.predecessor) if entry.predecessor else None
    names = {}
    try:
        names["this"] = scanner.attach(entry.week, entry.path)
        if before is not None and before.state is PartitionState.SEALED:
            names["before"] = scanner.attach(before.week, before.path)
        _in_one_snapshot(scanner.link.raw, audited, names)
    except (sqlite3.DatabaseError, PartitionDamagedError) as error:
        if is_busy(error) or _is_interrupt(error) or _is_no_text(error):
            raise
        audited.tell(_unreadable(entry, str(error)))
        return
    for identifier, week in islice(_used_before(scanner, catalog, entry), MOST_PER_RULE):
        row = audit_ids.row_of(scanner.link.raw, names["this"], identifier)
        fault = Found(audit_ids.ONCE, *row, f"its id {identifier} was used in {week} already")
        audited.tell(fault, _positions(scanner.link.raw, names["this"], fault))
    if entry.predecessor is None or "before" in names:
        return
    if before is not None and before.state is PartitionState.ARCHIVED:  # intact, as `verify` can prove
        audited.leave(f"its openings and where its chain begins: the week before, {before.week}, is in the archive")
    else:
        gone = "the week before is there"
        audited.tell(Found(gone, "partition_meta", entry.predecessor.name, "it cannot be read"))


def _used_before(scanner: Scanner, catalog: Catalog, entry: Partition) -> Iterator[tuple[str, Week]]:
    """Find ids of the week in all weeks before it that can be read; of the others their own audit tells."""
    raw, last = scanner.link.raw, b""
    while page := audit_ids.old_ids(raw, scanner.attach(entry.week, entry.path), entry.week, last):
        ids, last = [identifier for identifier, _ in page], page[-1][1]
        for week, earlier in sorted(catalog.items(), key=lambda item: item[0]):
            if week < entry.week and earlier.state is PartitionState.SEALED:
                for identifier in _used_in(scanner, earlier, ids):
                    yield identifier, week


def _used_in(scanner: Scanner, entry: Partition, ids: list[str]) -> list[str]:
    try:
        return audit_ids.used(scanner.link.raw, scanner.attach(entry.week, entry.path), ids)
    except (sqlite3.DatabaseError, PartitionDamagedError) as error:
        if is_busy(error) or _is_interrupt(error) or _is_no_text(error):
            raise
        return []


def _in_one_snapshot(raw: sqlite3.Connection, audited: _Audited, names: dict[str, str]) -> None:
    entry, this, before = audited.entry, names["this"], names.get("before")
    bounds = {"starts_at": entry.week.starts_at, "ends_at": entry.week.ends_at}
    raw.execute("BEGIN")
    try:
        accounts = Accounts(MOST_PER_RULE)
        accounts.walk(raw, this)
        found = accounts.found
        for rule, sql in (WITHIN if before is None else WITHIN | ACROSS).items():
            found += [Found(rule, *row) for row in _broken(raw, sql.format(**names, **bounds))]
        found += islice(audit_cells.faults(raw, this), MOST_PER_RULE)
        has_known_start = before is not None or entry.predecessor is None
        start = audit_chain.start(raw, before) if has_known_start else None
        found += audit_chain.faults(raw, this, start, most=MOST_PER_RULE)
        if outside := audit_chain.entries_outside(raw, this):
            audited.leave(f"by its chain: {outside} entries, which are older than the chain")
        sums = audited.sums = sums_of(raw, this, accounts, entry.predecessor)
        if sums.money_in != sums.money_out:
            told = f"{sums.money_in} was there or came in, {sums.money_out} went out or is held"
            found.append(Found(IN_AND_OUT, None, entry.week.name, told))
        for fault in found:
            audited.tell(fault, _positions(raw, this, fault))
    finally:
        raw.execute("ROLLBACK")


def _positions(raw: sqlite3.Connection, schema: str, found: Found) -> tuple[int, int] | None:
    if found.table != "ledger_entries":
        return None
    row = raw.execute(
        f"SELECT position, position FROM {schema}.ledger_entries WHERE id = ?", (found.subject,)
    ).fetchone()
    return None if row is None else tuple(row)


def _broken(raw: sqlite3.Connection, sql: str) -> list[tuple[str | None, str, str]]:
    try:
        rows = raw.execute(f"SELECT * FROM ({sql}) LIMIT {MOST_PER_RULE}").fetchall()
    except sqlite3.OperationalError as error:
        if "integer overflow" not in str(error):
            raise
        return [(None, "", f"the sums leave 64 bits: {error}")]  # amounts that no guarded write lets in
    return [(row[0], str(row[1]), str(row[2])) for row in rows]


def _unreadable(entry: Partition, problem: str) -> Found:
    return Found("the file can be read", None, str(entry.path), problem)


def _is_interrupt(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT


def _is_no_text(error: Exception) -> bool:
    return "Could not decode to UTF-8" in str(error)
