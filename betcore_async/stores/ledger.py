"""LedgerStore: what happened to whose money, and whether it all adds up."""

from collections.abc import Callable, Iterable
from datetime import datetime

from betcore_async.clock import EPOCH
from betcore_async.errors import UserNotFoundError
from betcore_async.models import LedgerEntry
from betcore_async.partitions import Week
from betcore_async.partitions.question import size_of
from betcore_async.stores.audit_report import AuditReport
from betcore_async.stores.bets import FAR_FUTURE
from betcore_async.stores.commands import check_name
from betcore_async.stores.engine import LedgerEngine


class LedgerStore:
    """The ledger, read-only: entries are written by what happens to users and bets."""

    def __init__(self, engine: LedgerEngine) -> None:
        self._engine = engine

    async def entries(
        self,
        user_id: str,
        start: datetime = EPOCH,
        end: datetime = FAR_FUTURE,
        *,
        limit: int | None = 100,
        newest_first: bool = True,
    ) -> list[LedgerEntry]:
        """Return a user's entries in [start, end), over all weeks. Raises ModelError for what is no range or limit."""
        check_name(user_id, "user_id")
        if limit is not None:
            size_of(limit, "limit")
        return await self._engine.entries(user_id, start, end, limit=limit, newest_first=newest_first)

    async def balance(self, user_id: str) -> int:
        """Return a user's balance in minor units. Raises UserNotFoundError."""
        user = await self._engine.user(check_name(user_id, "user_id"))
        if user is None:
            raise UserNotFoundError(f"there is no user {user_id!r}", user_id=user_id)
        return user.balance

    async def audit(
        self, *, weeks: Iterable[Week | str] | None = None, progress: Callable[[int, int], None] | None = None
    ) -> AuditReport:
        """Check that balances are the sums of their entries, that bets are booked once, that no money came or went.

        Over all weeks and every hand-over between them, or only `weeks`. `progress(done, of)` is called per week.
        """
        chosen = None if weeks is None else [Week.parse(week) for week in weeks]
        return await self._engine.audit(chosen, progress)
