"""BetStore: placing bets, and deciding them."""

from datetime import UTC, datetime

from betcore_async.clock import EPOCH
from betcore_async.errors import BetNotFoundError, InsufficientFundsError
from betcore_async.ids import parse_id
from betcore_async.models import Bet, BetStatus, reward_ppm
from betcore_async.partitions import BetPage, Cursor
from betcore_async.stores.commands import (
    CancelBet,
    CellSettlement,
    ConfirmBet,
    PlaceBet,
    SettleBet,
    SettleChunk,
    check_name,
    check_verdict,
)
from betcore_async.stores.engine import LedgerEngine

CHUNK = 10_000
"""Bets that `settle_cell` decides in one transaction: other writers wait for one chunk at most."""

FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)


class BetStore:
    """Bets. Each change is one transaction: the bet row, the balance and the ledger entry, or nothing."""

    def __init__(self, engine: LedgerEngine) -> None:
        self._engine = engine

    async def place(
        self,
        user_id: str,
        cell_id: str,
        amount: int,
        reward_rate: float,
        *,
        id: str | None = None,  # noqa: A002 - public name
        require_funds: bool = False,
    ) -> Bet:
        """Stake `amount` minor units on a cell; it pays amount × reward_rate, rounded down, when it is won.

        A user who cannot afford it gets a bet with status `insufficient_funds`, and no money moves; with
        `require_funds` that is raised as InsufficientFundsError, with the recorded bet as its `bet`. Repeated with the
        same `id` it returns the first outcome; other terms raise IdempotencyConflictError. Raises UserNotFoundError,
        ModelError.
        """
        identifier = self._engine.new_id() if id is None else id
        command = PlaceBet(identifier, user_id, cell_id, amount, reward_ppm(reward_rate))
        bet = await self._engine.execute(command)
        if require_funds and bet.status is BetStatus.INSUFFICIENT_FUNDS:
            raise InsufficientFundsError(
                f"user {user_id} cannot afford {amount}", user_id=user_id, amount=amount, bet=bet
            )
        return bet

    async def get(self, bet_id: str) -> Bet:
        """Return a bet of any week with its latest status. Raises BetNotFoundError."""
        bet = await self._engine.bet(parse_id(bet_id, "bet_id"))
        if bet is None:
            raise BetNotFoundError(f"there is no bet {bet_id!r}", bet_id=bet_id)
        return bet

    async def confirm(self, bet_id: str) -> Bet:
        """Mark a pending bet as confirmed. Raises BetNotFoundError, InvalidTransitionError."""
        return await self._engine.execute(ConfirmBet(bet_id))

    async def settle(self, bet_id: str, won: bool) -> Bet:  # noqa: FBT001 - public name
        """Decide an open bet, and pay it out if it is won; repeated, it changes nothing.

        Raises BetNotFoundError, and InvalidTransitionError for a bet that was decided otherwise.
        """
        return await self._engine.execute(SettleBet(bet_id, won))

    async def settle_cell(self, cell_id: str, won: bool) -> CellSettlement:  # noqa: FBT001 - public name
        """Decide all open bets of a cell, in chunks of 10,000; cut off anywhere and repeated, it ends the same."""
        check_name(cell_id, "cell_id")
        check_verdict(won)
        bets = paid = 0
        after = ""
        while (upto := await self._engine.chunk_end(cell_id, after, CHUNK)) is not None:
            settled = await self._engine.execute(SettleChunk(cell_id, won, after, upto))
            bets, paid, after = bets + settled.bets, paid + settled.payout, upto
        return CellSettlement(bets, paid)

    async def cancel(self, bet_id: str) -> Bet:
        """Call an open bet off and refund its stake. Raises BetNotFoundError, InvalidTransitionError."""
        return await self._engine.execute(CancelBet(bet_id))

    async def history(
        self,
        user_id: str,
        start: datetime = EPOCH,
        end: datetime = FAR_FUTURE,
        *,
        status: BetStatus | None = None,
        limit: int = 50,
        cursor: Cursor | None = None,
        newest_first: bool = True,
        allow_partial: bool = False,
    ) -> BetPage:
        """Return one page of a user's bets over all weeks; `next_cursor` leads to the next one."""
        return await self._engine.history(
            check_name(user_id, "user_id"),
            start,
            end,
            status=status,
            limit=limit,
            cursor=cursor,
            newest_first=newest_first,
            allow_partial=allow_partial,
        )
