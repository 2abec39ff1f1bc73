"""What a run of the demonstration came to: the same facts for the table, for JSON and for the report."""

import re
import resource
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import orjson

from betcore_async.demo.latency import Latencies
from betcore_async.stores.audit_report import AuditReport


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one kind of call took, in milliseconds, as its caller saw it."""

    count: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, latencies: Latencies) -> Self:
        seconds = (latencies.quantile(0.5), latencies.quantile(0.99), latencies.longest)
        return cls(latencies.count, *(round(value * 1000, 3) for value in seconds))


@dataclass(frozen=True, slots=True)
class WeekBets:
    """The bets placed in one week, by what became of them."""

    week: str
    won: int = 0
    lost: int = 0
    open: int = 0  # not decided yet: their windows begin after the last tick
    refused: int = 0  # recorded without a stake, for want of funds
    cancelled: int = 0

    @property
    def total(self) -> int:
        return self.won + self.lost + self.open + self.refused + self.cancelled


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the audit of all weeks found."""

    ok: bool
    violations: tuple[str, ...]
    counts: dict[str, int]  # rows that were looked at, and sums of money in minor units

    @classmethod
    def of(cls, report: AuditReport) -> Self:
        told = (f"{found.week}: {found.rule}: {found.subject}: {found.detail}" for found in report.violations)
        return cls(report.ok, tuple(told), report.counts)


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """All numbers of one run."""

    feed: str
    first: datetime | None  # time of the first tick that was replayed; None when none was
    last: datetime | None
    complete: bool  # False when it was ended before the end of the feed
    resumed: bool  # True when it went on from an interrupted run
    users: int
    ticks: int  # written to the price cache and published
    ticks_settled: int  # of these, seen by the settlement worker
    live_deliveries: int  # messages the live subscribers received, conflated ones not counted
    bets: int  # acknowledged in this run, refused ones included
    refused: int
    settlements: int  # bets decided in this run
    rotations: int
    weeks: tuple[WeekBets, ...]  # as the histories over all weeks tell it
    lost_bets: int  # acknowledged, yet in no history: must be 0
    doubled_bets: int  # more than once in a history: must be 0
    elapsed: float  # seconds of replay, start-up and audit left out
    timings: dict[str, Timing]  # by kind of call
    audit: Verdict
    peak_memory: int  # bytes, this process and the Redis server it started
    data: str | None  # where the weekly files are; None when they were removed

    @property
    def ok(self) -> bool:
        """True when the audit passed and every acknowledged bet is there exactly once."""
        return self.audit.ok and self.lost_bets == 0 and self.doubled_bets == 0

    def rate(self, count: int) -> float:
        """Return `count` per second of replay."""
        return count / self.elapsed if self.elapsed > 0 else 0.0

    def to_json(self) -> str:
        """Return everything as one JSON object, indented; durations in seconds or, in `timings`, milliseconds."""
        return orjson.dumps(self.facts(), option=orjson.OPT_INDENT_2).decode()

    def facts(self) -> dict[str, Any]:
        """Return all fields and what follows from them."""
        plain: dict[str, Any] = orjson.loads(orjson.dumps(self))
        rates = {name: round(self.rate(getattr(self, name)), 1) for name in ("ticks", "bets", "settlements")}
        return {"ok": self.ok} | plain | {"weeks_queried": len(self.weeks), "per_second": rates}

    def lines(self) -> list[tuple[str, str]]:
        """Return what a person wants to know, as pairs of name and value in the order of interest."""
        span = f"{self.first:%Y-%m-%d %H:%M} to {self.last:%Y-%m-%d %H:%M} UTC" if self.first and self.last else "none"
        placed = sum(week.total for week in self.weeks)
        rows = [
            ("feed", f"{self.feed}{'' if self.complete else ' (ended early)'}"),
            ("feed time", f"{span}{', gone on from an earlier run' if self.resumed else ''}"),
            ("ticks", f"{self.ticks:,}  ({self.rate(self.ticks):,.0f}/s); {self.ticks_settled:,} reached settlement"),
            ("bets", f"{self.bets:,}  ({self.rate(self.bets):,.0f}/s) by {self.users} users; {self.refused:,} refused"),
            ("settlements", f"{self.settlements:,}  ({self.rate(self.settlements):,.0f}/s)"),
            ("rotations", f"{self.rotations}"),
            (
                "weeks queried",
                f"{len(self.weeks)} with {placed:,} bets; lost {self.lost_bets}, doubled {self.doubled_bets}",
            ),
        ]
        rows += [
            (name, f"p50 {timing.p50:,.2f} ms, p99 {timing.p99:,.2f} ms  (of {timing.count:,})")
            for name, timing in self.timings.items()
        ]
        rows += [
            ("elapsed", f"{self.elapsed:,.1f} s"),
            ("memory at its peak", f"{self.peak_memory / 1e6:,.0f} MB"),
            ("money", f"in {self.audit.counts.get('money_in', 0):,}, out {self.audit.counts.get('money_out', 0):,}"),
            ("audit", "OK" if self.audit.ok else f"FAILED: {len(self.audit.violations)} violations"),
            ("verdict", "OK" if self.ok else "FAILED"),
        ]
        return [*rows, *([("data", self.data)] if self.data else [])]


def peak_memory() -> int:
    """Return the most memory (bytes, resident) this process has had, plus that of its largest ended child."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, kilobytes elsewhere
    child = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    try:
        # Linux: getrusage(2) would name the peak of whoever started us, where that was larger: exec does not reset it.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return child + 1024 * int(_PEAK.search(status)[1])  # type: ignore[index]
    except (OSError, TypeError):
        return child + unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


_PEAK = re.compile(r"^VmHWM:\s*([0-9]+) kB$", re.MULTILINE)
