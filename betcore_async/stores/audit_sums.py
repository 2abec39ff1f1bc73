"""Money in == money out: what a week began with and what came in, against what went out and what is held at its end."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from betcore_async.partitions.week import Week
from betcore_async.stores.audit_accounts import Accounts

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


# Sums in two halves of 32 bits: SQLite's sum() refuses to go beyond 64, and many users may bet more than that.
_BETS = """
SELECT
    count(*) FILTER (WHERE here),
    sum(amount >> 32) FILTER (WHERE here AND status <> 'insufficient_funds'),
    sum(amount & 4294967295) FILTER (WHERE here AND status <> 'insufficient_funds'),
    sum(payout_amount >> 32),
    sum(payout_amount & 4294967295),
    sum(amount >> 32) FILTER (WHERE status = 'cancelled'),
    sum(amount & 4294967295) FILTER (WHERE status = 'cancelled')
FROM (
    SELECT status, amount, payout_amount, placed_at >= starts_at AS here
    FROM {schema}.bets
    CROSS JOIN {schema}.partition_meta
)
"""


def sums_of(raw: sqlite3.Connection, schema: str, accounts: Accounts, predecessor: Week | None) -> WeekSums:
    """Return the sums of an attached week, whose accounts were walked."""
    carried = accounts.amounts["carry_forward"]
    flows = Counter({"entries": accounts.entries.total() - accounts.entries["carry_forward"]})
    for kind, (name, sign) in _FROM_OUTSIDE.items():
        flows[name] = accounts.amounts[kind] * sign
    bets, *halves = (half or 0 for half in raw.execute(_BETS.format(schema=schema)).fetchone())
    staked, paid, refunded = ((high << 32) + low for high, low in zip(halves[::2], halves[1::2], strict=True))
    flows.update(bets=bets, staked=staked, paid=paid, refunded=refunded)
    return WeekSums(predecessor, accounts.users, carried, accounts.held, flows)


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
