"""The ledger on weekly SQLite files."""

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from betcore_async.clock import Clock, system_clock
from betcore_async.errors import BetNotFoundError, IdempotencyConflictError, LedgerError, ModelError
from betcore_async.ids import IdGenerator, born_at, first_id
from betcore_async.models import OPEN_STATUSES, Bet, BetStatus, LedgerEntry, User
from betcore_async.partitions import BetPage, Cursor, PartitionManager, Week
from betcore_async.stores import audit, sqlite_cells, sqlite_commands, sqlite_reads
from betcore_async.stores.audit_report import AuditReport
from betcore_async.stores.commands import (
    CancelBet,
    Command,
    ConfirmBet,
    CreateUser,
    Deposit,
    PlaceBet,
    PlaceBets,
    SettleBet,
    SettleChunk,
    Transfer,
    Withdraw,
)
from betcore_async.stores.sqlite_commands import Books
from betcore_async.stores.sqlite_outcomes import replayed, standing
from betcore_async.stores.sqlite_reads import CLOCK_SKEW, PUNCTUAL, UsedIds

R = TypeVar("R")

_HANDLERS: dict[type[Command[Any]], Callable[[Books, Any], Any]] = {
    CreateUser: sqlite_commands.create_user,
    Deposit: sqlite_commands.move_money,
    Withdraw: sqlite_commands.move_money,
    Transfer: sqlite_commands.move_money,
    PlaceBet: sqlite_commands.place_bet,
    PlaceBets: sqlite_commands.place_bets,
    ConfirmBet: sqlite_commands.confirm_bet,
    SettleBet: sqlite_commands.settle_bet,
    SettleChunk: sqlite_cells.settle_chunk,
    CancelBet: sqlite_commands.cancel_bet,
}


@dataclass(frozen=True, slots=True)
class _FreshIds:
    """Which ids no week before `week` can have used. Those weeks are sealed: worked out once for each live week."""

    week: Week
    used: UsedIds
    least: str
    """The later of: the greatest id that any of them used, and the first that can be born in this week."""
    certain: str
    """The later of that and the greatest id that a week which is gone may have used."""
    limit: str
    """An id from here on may lie too far in the future."""


class SQLiteLedger:
    """A LedgerEngine over a PartitionManager. Each command is one member of a group commit on the live week."""

    def __init__(self, partitions: PartitionManager, clock: Clock = system_clock) -> None:
        self._partitions = partitions
        self._clock = clock
        self.new_id = IdGenerator(clock)
        # Of its own for the writer's thread: for one that both threads want at once they would wait for each other.
        self._entry_id = IdGenerator(clock)
        self._fresh: _FreshIds | None = None

    async def execute(self, command: Command[R]) -> R:
        answer: R
        if isinstance(command, PlaceBets):
            answer = await self._place_all(command)
            return answer
        handler = _HANDLERS[type(command)]

        def body(raw: sqlite3.Connection, now: int) -> R:
            result: R = handler(Books(raw, now, self._entry_id), command)
            return result

        identifier: str | None = getattr(command, "id", None)
        replay = None if identifier is None else partial(self._earlier, command, identifier)
        # There are others behind a first chunk: each takes long, and who waited for one must not wait for the next.
        alone = isinstance(command, SettleChunk) and command.number > 1
        try:
            answer = await self._partitions.write(body, replay=replay, alone=alone)
        except BetNotFoundError as error:
            answer = await self._decided_before(command, error)
        return answer

    async def _place_all(self, command: PlaceBets) -> Any:
        known: dict[PlaceBet, Bet | LedgerError] = {}

        async def ask_earlier_weeks(live: Week) -> None:
            known.clear()
            for bet in command.bets:
                if (earlier := self._earlier(bet, bet.id, live)) is None:
                    continue
                try:
                    first = await earlier
                except IdempotencyConflictError as error:
                    first = error
                if first is not None:
                    known[bet] = first

        def body(raw: sqlite3.Connection, now: int) -> tuple[Bet | LedgerError, ...]:
            fresh = PlaceBets(tuple(bet for bet in command.bets if bet not in known))
            placed = iter(sqlite_commands.place_bets(Books(raw, now, self._entry_id), fresh))
            return tuple(known[bet] if bet in known else next(placed) for bet in command.bets)

        return await self._partitions.write(body, replay=ask_earlier_weeks)

    def _earlier(self, command: Command[Any], identifier: str, live: Week) -> Awaitable[Any] | None:
        """Ask the weeks before the live one about a command; None where they cannot know its id, as of nearly all."""
        fresh = self._fresh
        if fresh is not None and fresh.week == live and fresh.certain < identifier < fresh.limit:
            return None
        return self._ask_earlier_weeks(command, identifier, live)

    async def _ask_earlier_weeks(self, command: Command[Any], identifier: str, live: Week) -> Any:
        """Answer a command whose id was used in a week before the live one; None when it was not.

        What its time says is not enough: around midnight on Sunday, and until somebody rotates, the old week takes
        commands whose ids were born in the new one.
        """
        fresh = await self._fresh_ids(live)
        if fresh.certain < identifier < fresh.limit:
            return None
        born, now = born_at(identifier), self._clock()
        too_early = born > now + CLOCK_SKEW
        # Made just now, it was not used in a week that is gone: that is over.
        is_doubtful = identifier < fresh.certain and abs(born - now) > PUNCTUAL
        if identifier > fresh.least and not (too_early or is_doubtful):
            return None
        since = fresh.used.search_from(born)
        first = await self._partitions.scan(partial(sqlite_reads.find_outcome, identifier=identifier, since=since))
        if first is not None:
            return replayed(command, first, await self.user(identifier) if isinstance(command, CreateUser) else None)
        if too_early:
            await self._partitions.read(lambda _: None)  # follows a rotation; behind it, this is asked again
            if self._partitions.current_week == live:
                raise ModelError(f"the id {identifier} lies in the future: its time is {born}", field="id")
        return None

    async def _fresh_ids(self, live: Week) -> _FreshIds:
        fresh = self._fresh
        if fresh is None or fresh.week != live:
            used = await self._partitions.scan(partial(sqlite_reads.used_before, live=live))
            least = max(used.greatest, first_id(live.start))
            certain, limit = max(least, used.doubtful), first_id(live.start + CLOCK_SKEW)
            fresh = self._fresh = _FreshIds(live, used, least, certain, limit)
        return fresh

    async def _decided_before(self, command: Command[Any], error: BetNotFoundError) -> Any:
        """Answer for a bet that is not in the live week: it was decided in an earlier one, or never placed."""
        row = await self._bet_row(error.bet_id)
        if row is None or row["status"] in OPEN_STATUSES:  # open: it was placed after the command had looked
            raise error
        match command:
            case SettleBet(won=won):
                wanted = BetStatus.WON if won else BetStatus.LOST
            case CancelBet():
                wanted = BetStatus.CANCELLED
            case _:
                wanted = BetStatus.CONFIRMED
        return standing(row, wanted)

    async def user(self, user_id: str) -> User | None:
        return await self._partitions.read(partial(sqlite_reads.user_by, "id", user_id))

    async def user_by_wallet(self, wallet_address: str) -> User | None:
        return await self._partitions.read(partial(sqlite_reads.user_by, "wallet_address", wallet_address))

    async def bet(self, bet_id: str) -> Bet | None:
        row = await self._bet_row(bet_id)
        return None if row is None else Bet.from_rows([row])[0]

    async def _bet_row(self, bet_id: str) -> Any:
        found = await self._partitions.read(partial(sqlite_reads.bet_in_live, bet_id))
        if found is not None:
            return found
        born, fresh = born_at(bet_id), await self._fresh_ids(self._partitions.current_week)
        since = fresh.used.search_from(born)
        return await self._partitions.scan(partial(sqlite_reads.find_bet, bet_id=bet_id, since=since))

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
