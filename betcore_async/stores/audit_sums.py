"""Money in == money out: what a week began with and what came in, against what went out and what is held at its end."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from betcore_async.partitions.week import Week
from betcore_async.stores.audit_rules import BET_SUMS, ENTRY_SUMS, USER_SUMS

_FROM_OUTSIDE = {"opening": ("opened", 1), "deposit": ("deposited", 1), "withdrawal": ("withdrawn", -1)}


@dataclass(frozen=True, slots=True)
class WeekSums:
    """Sums of one week, in minor units.

    Stakes, payouts and refunds are taken from the bets, not from the entries that book them, and what is held from the
    balances: the two sides of the equation come from different rows. Transfers cancel out, and are left out.
    """

    predecessor: Week | None
    users: int
    carried: int
    """What the users had at its start."""
    held: int
    """What the users have at its end."""
    flows: Counter[str]

    @property
    def came_in(self) -> int:
        return sum(self.flows[name] for name in ("opened", "deposited", "paid", "refunded"))

    @property
    def went_out(self) -> int:
        return sum(self.flows[name] for name in ("withdrawn", "staked"))

    @property
    def money_in(self) -> int:
        return self.carried + self.came_in

    @property
    def money_out(self) -> int:
        return self.went_out + self.held


_FLOWS = ("bets", "entries", "opened", "deposited", "withdrawn", "staked", "paid", "refunded")


def sums_of(raw: sqlite3.Connection, schema: str, predecessor: Week | None) -> WeekSums:
    """Return the sums of an attached week."""
    flows: Counter[str] = Counter()
    carried = 0
    for kind, count, high, low in raw.execute(ENTRY_SUMS.format(this=schema)):
        amount = _whole(high, low)
        if kind == "carry_forward":
            carried = amount
            continue
        flows["entries"] += count
        if kind in _FROM_OUTSIDE:
            name, sign = _FROM_OUTSIDE[kind]
            flows[name] += amount * sign
    for status, placed_here, count, high, low, paid_high, paid_low in raw.execute(BET_SUMS.format(this=schema)):
        amount = _whole(high, low)
        flows["bets"] += count * placed_here
        flows["staked"] += amount * placed_here * (status != "insufficient_funds")
        flows["paid"] += _whole(paid_high, paid_low)
        flows["refunded"] += amount * (status == "cancelled")
    users, high, low = raw.execute(USER_SUMS.format(this=schema)).fetchone()
    return WeekSums(predecessor, users, carried, _whole(high, low), flows)


def add_up(weeks: Mapping[Week, WeekSums]) -> dict[str, int]:
    """Return the counts of a report: weeks, users, flows, and both sides of the equation over all weeks.

    What one audited week hands to the next is on neither side.
    """
    handed_on = {sums.predecessor for sums in weeks.values()} & set(weeks)
    last = weeks[max(weeks)] if weeks else None
    flows = {name: sum(sums.flows[name] for sums in weeks.values()) for name in _FLOWS}
    money_in = sum(sums.came_in + sums.carried * (sums.predecessor not in weeks) for sums in weeks.values())
    money_out = sum(sums.went_out + sums.held * (week not in handed_on) for week, sums in weeks.items())
    ends = {"weeks": len(weeks), "users": last.users if last else 0, "held": last.held if last else 0}
    return ends | flows | {"money_in": money_in, "money_out": money_out}


def _whole(high: int, low: int) -> int:
    return (high << 32) + low
