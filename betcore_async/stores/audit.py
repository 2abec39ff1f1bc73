"""The audit: every promise of the ledger, as a query that finds the rows which break it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from betcore_async.partitions.catalog import Partition
from betcore_async.partitions.manager import PartitionManager
from betcore_async.partitions.meta import PartitionState
from betcore_async.partitions.scanner import Scanner
from betcore_async.partitions.week import Week
from betcore_async.stores.audit_report import AuditReport, Violation
from betcore_async.stores.audit_rules import ACROSS, COUNTS, WITHIN

Catalog = Mapping[Week, Partition]

MOST_PER_RULE = 10
"""Violations of one rule that are reported per week; the first says enough, and a report stays small."""


async def run(
    partitions: PartitionManager,
    weeks: Sequence[Week] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Check every file, and every hand-over between two files; each file in one read snapshot.

    `weeks` limits it to some weeks. `progress(done, of)` is called after each file.
    """
    catalog = await partitions.scan(lambda _, catalog: catalog)
    chosen = [entry for week, entry in sorted(catalog.items()) if weeks is None or week in weeks]
    violations: list[Violation] = []
    sums: list[Counter[str]] = []
    for entry in chosen:
        found, counted = await partitions.scan(partial(_audit_file, entry=entry))
        violations += found
        sums.append(counted)
        if progress is not None:
            progress(len(sums), len(chosen))
    counts = _add_up(sums)
    if counts["money_in"] != counts["money_out"]:
        detail = f"{counts['money_in']} came in, {counts['money_out']} went out or is held"
        violations.append(Violation("all", "money in == money out", "", detail))
    return AuditReport(tuple(violations), counts)


def _add_up(sums: Sequence[Counter[str]]) -> dict[str, int]:
    """Add up the weeks: what came in, at the start or on the way, and what went out or is held at the end.

    Stakes, payouts and refunds are counted from the bets, not from the ledger entries that book them: the two sides of
    the equation come from different rows.
    """
    total: Counter[str] = Counter()
    for counted in sums:
        total.update(counted)
    first, last = (sums[0], sums[-1]) if sums else (total, total)
    into = sum(total[name] for name in ("opened", "deposited", "transferred_in", "paid", "refunded"))
    out = sum(total[name] for name in ("withdrawn", "transferred_out", "staked"))
    ends = {"weeks": len(sums), "users": last["users"], "held": last["closing"]}
    flows = {name: total[name] for name in _FLOWS}
    return ends | flows | {"money_in": first["carried"] + into, "money_out": out + last["closing"]}


_FLOWS = ("bets", "entries", "opened", "deposited", "withdrawn", "staked", "paid", "refunded")


def _audit_file(scanner: Scanner, catalog: Catalog, *, entry: Partition) -> tuple[list[Violation], Counter[str]]:
    week = entry.week.name
    if entry.state is PartitionState.DAMAGED:
        return [Violation(week, "the file can be read", str(entry.path), entry.problem)], Counter()
    rules, names = dict(WITHIN), {"this": scanner.attach(entry.week, entry.path)}
    before = catalog.get(entry.predecessor) if entry.predecessor else None
    if before is not None and before.state is not PartitionState.DAMAGED:
        names["before"] = scanner.attach(before.week, before.path)
        rules |= ACROSS
    raw = scanner.link.raw
    raw.execute("BEGIN")  # one snapshot for all rules
    try:
        found = [
            Violation(week, rule, str(subject), str(detail))
            for rule, sql in rules.items()
            for subject, detail in raw.execute(f"{sql.format(**names)} LIMIT {MOST_PER_RULE}").fetchall()
        ]
        row = raw.execute(COUNTS.format(**names)).fetchone()
    finally:
        raw.execute("ROLLBACK")
    if entry.predecessor is not None and "before" not in names:
        found.append(Violation(week, "the week before is there", entry.predecessor.name, "it cannot be read"))
    return found, Counter(dict(zip(row.keys(), row, strict=True)))
