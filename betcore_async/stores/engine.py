"""The seam at which another database engine would fit: it executes commands, and answers questions."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from betcore_async.models import Bet, BetStatus, LedgerEntry, User
from betcore_async.partitions import BetPage, Cursor, Week
from betcore_async.stores.audit_report import AuditReport
from betcore_async.stores.commands import Command

R = TypeVar("R")


class LedgerEngine(Protocol):
    """Executes each command whole or not at all; a result means that it is committed."""

    def new_id(self) -> str:
        """Return a fresh UUIDv7."""
        ...

    async def execute(self, command: Command[R]) -> R:
        """Execute a command; one that was executed before returns its first outcome, with `replayed` True.

        Raises the LedgerError that says why not; nothing was changed then.
        """
        ...

    async def user(self, user_id: str) -> User | None: ...

    async def user_by_wallet(self, wallet_address: str) -> User | None: ...

    async def bet(self, bet_id: str) -> Bet | None: ...

    async def history(
        self,
        user_id: str,
        start: datetime,
        end: datetime,
        *,
        status: BetStatus | None,
        limit: int,
        cursor: Cursor | None,
        newest_first: bool,
        allow_partial: bool,
    ) -> BetPage: ...

    async def entries(
        self, user_id: str, start: datetime, end: datetime, *, limit: int | None, newest_first: bool
    ) -> list[LedgerEntry]: ...

    async def audit(self, weeks: Sequence[Week] | None, progress: Callable[[int, int], None] | None) -> AuditReport: ...
