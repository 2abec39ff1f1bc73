"""What conformance tests share: how to say a command shortly, and one of every kind."""

from dataclasses import dataclass
from datetime import UTC, datetime

from betcore_async.models import User
from betcore_async.stores import LedgerEngine
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

ALWAYS = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))
PPM = 1_500_000


async def create(engine: LedgerEngine, wallet: str, balance: int = 1_000) -> User:
    return await engine.execute(CreateUser(engine.new_id(), wallet, balance))


def a_bet(engine: LedgerEngine, user: User, amount: int = 100, cell: str = "cell", ppm: int = PPM) -> PlaceBet:
    return PlaceBet(engine.new_id(), user.id, cell, amount, ppm)


async def place(engine: LedgerEngine, user: User, amount: int = 100, cell: str = "cell") -> str:
    return (await engine.execute(a_bet(engine, user, amount, cell))).id


async def balance(engine: LedgerEngine, user: User) -> int:
    now = await engine.user(user.id)
    assert now is not None
    return now.balance


async def entries(engine: LedgerEngine, user: User) -> list[tuple[str, int, int]]:
    """Kind, amount and balance after, from the first to the last."""
    found = await engine.entries(user.id, *ALWAYS, limit=None, newest_first=False)
    return [(entry.ref_type, entry.amount, entry.balance_after) for entry in found]


async def history(engine: LedgerEngine, user: User, **options: object):
    chosen = {"status": None, "limit": 100, "cursor": None, "newest_first": True, "allow_partial": False} | options
    return await engine.history(user.id, *ALWAYS, **chosen)


async def state(engine: LedgerEngine, *users: User) -> list[object]:
    """Everything that a command could have changed for some users."""
    told = [await engine.user(user.id) for user in users]
    return [*told, *[await entries(engine, user) for user in users], *[(await history(engine, user)) for user in users]]


@dataclass
class Cast:
    """Two users and a bet for each decision."""

    ann: User
    bob: User
    bets: dict[str, str]


async def cast(engine: LedgerEngine) -> Cast:
    ann, bob = await create(engine, "ann"), await create(engine, "bob")
    names = ("confirm", "win", "lose", "cancel")
    return Cast(ann, bob, {name: await place(engine, ann, 10, f"cell of {name}") for name in names})


KINDS = (
    *("create", "deposit", "withdraw", "transfer", "place", "place unfunded", "place many"),
    *("confirm", "win", "lose", "cancel", "settle chunk"),
)


def command(engine: LedgerEngine, those: Cast, kind: str) -> Command:
    ann, bob, bets = those.ann, those.bob, those.bets
    return {
        "create": lambda: CreateUser(engine.new_id(), "new", 7),
        "deposit": lambda: Deposit(engine.new_id(), ann.id, 7),
        "withdraw": lambda: Withdraw(engine.new_id(), ann.id, 7),
        "transfer": lambda: Transfer(engine.new_id(), ann.id, bob.id, 7),
        "place": lambda: a_bet(engine, ann, 7),
        "place unfunded": lambda: a_bet(engine, ann, 10**9),
        "place many": lambda: PlaceBets((a_bet(engine, ann, 7), a_bet(engine, bob, 10**9), a_bet(engine, bob, 8))),
        "confirm": lambda: ConfirmBet(bets["confirm"]),
        "win": lambda: SettleBet(bets["win"], won=True),
        "lose": lambda: SettleBet(bets["lose"], won=False),
        "cancel": lambda: CancelBet(bets["cancel"]),
        "settle chunk": lambda: SettleChunk("cell of confirm", won=True, number=1),
    }[kind]()


def told_as_replay(outcome: object) -> bool:
    if isinstance(outcome, tuple):
        return all(one.replayed for one in outcome)
    return outcome.replayed
