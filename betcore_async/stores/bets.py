"""BetStore: placing bets, and deciding them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count

from betcore_async.clock import EPOCH
from betcore_async.errors import BalanceLimitError, BetNotFoundError, InsufficientFundsError, LedgerError
from betcore_async.ids import parse_id
from betcore_async.models import Bet, BetStatus, reward_ppm
from betcore_async.partitions import BetPage, Cursor
from betcore_async.stores.commands import (
    CHUNK,
    CancelBet,
    CellSettlement,
    ConfirmBet,
    PlaceBet,
    PlaceBets,
    SettleBet,
    SettleChunk,
    check_name,
)
from betcore_async.stores.engine import LedgerEngine

FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NewBet:
    """A bet that is wanted, for `place_many`; the arguments of `place`."""

    user_id: str
    cell_id: str
    amount: int
    reward_rate: float
    id: str | None = None


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
        same `id` it returns the first outcome, with `replayed` True; other terms raise IdempotencyConflictError. Raises
        UserNotFoundError, CellClosedError for a cell that was settled, ModelError.
        """
        identifier = self._engine.new_id() if id is None else id
        command = PlaceBet(identifier, user_id, cell_id, amount, reward_ppm(reward_rate))
        bet = await self._engine.execute(command)
        if require_funds and bet.status is BetStatus.INSUFFICIENT_FUNDS:
            raise InsufficientFundsError(
                f"user {user_id} cannot afford {amount}", user_id=user_id, amount=amount, bet=bet
            )
        return bet

    async def place_many(self, bets: Iterable[NewBet]) -> list[Bet | LedgerError]:
        """Place up to 10,000 bets, of one user or of many, in one transaction; returns what came of each, in order.

        Each bet is an outcome of its own, as `place` would have it: one that its user cannot afford is recorded with
        status `insufficient_funds`, one that is refused comes back as the LedgerError that says why, and neither undoes
        the others. All of them are on disk when this returns, or none if it raises. Repeat it with the same ids.
        Raises ModelError, before anything is done, for terms that no bet can have.
        """
        new_id = self._engine.new_id
        commands = (
            PlaceBet(
                new_id() if bet.id is None else bet.id,
                bet.user_id,
                bet.cell_id,
                bet.amount,
                reward_ppm(bet.reward_rate),
            )
            for bet in bets
        )
        placed = await self._engine.execute(PlaceBets(tuple(commands)))
        return list(placed)

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

        Raises BetNotFoundError, InvalidTransitionError for a bet that was decided otherwise, and BalanceLimitError for
        a payout that its user's balance cannot hold: the bet stays open.
        """
        return await self._engine.execute(SettleBet(bet_id, won))

    async def settle_cell(self, cell_id: str, won: bool) -> CellSettlement:  # noqa: FBT001 - public name
        """Close a cell and decide all its open bets, in numbered chunks of 10,000.

        Cut off anywhere and repeated, it goes on where it was and ends the same; repeated after its end, it returns the
        first outcome and changes nothing. Raises CellClosedError for a cell that was settled the other way, and
        BalanceLimitError, at its end, naming winners whose user's balance cannot grow so much: those stay open.
        """
        bets = paid = 0
        unpaid: list[str] = []
        replayed = True
        for number in count(1):
            chunk = await self._engine.execute(SettleChunk(cell_id, won, number, CHUNK))
            bets, paid = bets + chunk.bets, paid + chunk.payout
            unpaid += chunk.unpaid
            replayed = replayed and chunk.replayed
            if chunk.is_last:
                break
        settled = CellSettlement(bets, paid, replayed)
        if unpaid:
            raise BalanceLimitError(
                f"{len(unpaid)} bets won in cell {cell_id!r} would take a balance beyond what it can be; they "
                "stay open: make room, and settle them one by one",
                bet_ids=tuple(unpaid),
                settled=settled,
            )
        return settled

    async def cancel(self, bet_id: str) -> Bet:
        """Call an open bet off and refund its stake.

        Raises BetNotFoundError, InvalidTransitionError, and BalanceLimitError for a refund that its user's balance
        cannot hold: the bet stays open.
        """
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
