"""What an audit says."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken promise: which rule, in which week, and the first row that breaks it."""

    week: str
    rule: str
    subject: str
    """The id of the user, bet or entry."""
    detail: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    violations: tuple[Violation, ...]
    counts: dict[str, int] = field(default_factory=dict)
    """Weeks, users, bets and entries looked at, and sums in minor units: `money_in` and `money_out` must be equal."""

    @property
    def ok(self) -> bool:
        return not self.violations
