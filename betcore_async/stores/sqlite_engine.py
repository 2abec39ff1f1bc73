"""The ledger on weekly SQLite files."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from betcore_async.clock import Clock, system_clock
from betcore_async.errors import BetNotFoundError, InvalidTransitionError
from betcore_async.ids import IdGenerator, born_at
from betcore_async.models import Bet, BetStatus, LedgerEntry, User
from betcore_async.partitions import BetPage, Cursor, PartitionManager, Week
from betcore_async.stores import audit, sqlite_commands, sqlite_reads
from betcore_async.stores.audit_report import AuditReport
from betcore_async.stores.commands import (
    CancelBet,
    Command,
    ConfirmBet,
    CreateUser,
    Deposit,
    PlaceBet,
    SettleBet,
    SettleChunk,
    Transfer,
    Withdraw,
)
from betcore_async.stores.sqlite_commands import Books

R = TypeVar("R")

_HANDLERS: dict[type[Command[Any]], Callable[[Books, Any], Any]] = {
    CreateUser: sqlite_commands.create_user,
    Deposit: sqlite_commands.deposit,
    Withdraw: sqlite_commands.withdraw,
    Transfer: sqlite_commands.transfer,
    PlaceBet: sqlite_commands.place_bet,
    ConfirmBet: sqlite_commands.confirm_bet,
    SettleBet: sqlite_commands.settle_bet,
    SettleChunk: sqlite_commands.settle_chunk,
    CancelBet: sqlite_commands.cancel_bet,
}

_MONEY_KINDS: dict[type[Command[Any]], str] = {
    Deposit: "deposit",
    Withdraw: "withdrawal",
    Transfer: "transfer_out",
}

CLOCK_SKEW = timedelta(days=7)
"""How much earlier than its id says a command may have been executed: one week, since a row lies in its own week."""


class SQLiteLedger:
    """A LedgerEngine over a PartitionManager. Each command is one member of a group commit on the live week."""

    def __init__(self, partitions: PartitionManager, clock: Clock = system_clock) -> None:
        self._partitions = partitions
        self.new_id = IdGenerator(clock)

    async def execute(self, command: Command[R]) -> R:
        handler = _HANDLERS[type(command)]

        def body(raw: sqlite3.Connection, now: int) -> R:
            result: R = handler(Books(raw, now, self.new_id), command)
            return result

        try:
            answer: R = await self._partitions.write(body, replay=partial(self._earlier, command))
        except BetNotFoundError as error:
            answer = await self._decided_before(command, error)
        return answer

    async def _earlier(self, command: Command[Any], live: Week) -> Any:
        """Look in earlier weeks for the first outcome of a command whose id is older than the live week."""
        identifier = getattr(command, "id", None)
        if identifier is None or isinstance(command, CreateUser) or born_at(identifier) >= live.start:
            return None
        oldest = Week.of(born_at(identifier) - CLOCK_SKEW)
        if isinstance(command, PlaceBet):
            known = await self._partitions.scan(partial(sqlite_reads.find_bet, bet_id=identifier, oldest=oldest))
            return None if known is None else sqlite_commands.replayed_bet(known, command)
        assert isinstance(command, Deposit | Withdraw | Transfer)  # noqa: S101 - the only others with an id
        kind = _MONEY_KINDS[type(command)]
        row = await self._partitions.scan(
            partial(sqlite_reads.find_entry, ref_type=kind, ref_id=identifier, oldest=oldest)
        )
        return sqlite_commands.replayed(command, row)

    async def _decided_before(self, command: Command[Any], error: BetNotFoundError) -> Any:
        """Answer for a bet that is not in the live week: it was decided in an earlier one, or never placed."""
        bet = await self.bet(error.bet_id)
        if bet is None:
            raise error
        match command:
            case SettleBet(won=won):
                wanted = BetStatus.WON if won else BetStatus.LOST
            case CancelBet():
                wanted = BetStatus.CANCELLED
            case _:
                wanted = BetStatus.CONFIRMED
        if bet.status is wanted:
            return bet
        raise InvalidTransitionError(
            f"bet {bet.id} is {bet.status} and cannot become {wanted}", bet_id=bet.id, status=bet.status, wanted=wanted
        ) from error

    async def user(self, user_id: str) -> User | None:
        return await self._partitions.read(partial(sqlite_reads.user_by, "id", user_id))

    async def user_by_wallet(self, wallet_address: str) -> User | None:
        return await self._partitions.read(partial(sqlite_reads.user_by, "wallet_address", wallet_address))

    async def bet(self, bet_id: str) -> Bet | None:
        found = await self._partitions.read(partial(sqlite_reads.bet_in_live, bet_id))
        if found is not None:
            return found
        oldest = Week.of(born_at(bet_id) - CLOCK_SKEW)
        return await self._partitions.scan(partial(sqlite_reads.find_bet, bet_id=bet_id, oldest=oldest))

    async def chunk_end(self, cell_id: str, after: str, size: int) -> str | None:
        return await self._partitions.read(partial(sqlite_reads.chunk_end, cell_id, after, size))

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
    ) -> BetPage:
        return await self._partitions.query_bets(
            user_id,
            start,
            end,
            status=status,
            limit=limit,
            cursor=cursor,
            newest_first=newest_first,
            allow_partial=allow_partial,
        )

    async def entries(
        self, user_id: str, start: datetime, end: datetime, *, limit: int | None, newest_first: bool
    ) -> list[LedgerEntry]:
        query = sqlite_reads.EntryQuery(user_id, start, end, limit, newest_first)
        return await self._partitions.scan(partial(sqlite_reads.entries, query=query))

    async def audit(self, weeks: Sequence[Week] | None, progress: Callable[[int, int], None] | None) -> AuditReport:
        return await audit.run(self._partitions, weeks, progress)
