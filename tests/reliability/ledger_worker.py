"""One of several processes that use the same weekly files: `ledger_worker.py FOLDER JOURNAL SEED SECONDS STARTED`.

Before each command a line with its terms goes to JOURNAL, after it a line with its outcome: what the file says at the
moment of a SIGKILL is what this process was told. Its clock runs a week every two seconds since STARTED (seconds since
the epoch), so that weeks are rotated while everything goes on.
"""

import asyncio
import json
import os
import random
import sys
import time
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

from ledger_files import NOON, open_books

from betcore_async.stores.commands import (
    CancelBet,
    ChunkSettlement,
    ConfirmBet,
    Deposit,
    PlaceBet,
    PlaceBets,
    SettleBet,
    SettleChunk,
    Transfer,
    Withdraw,
)

TASKS = 8
SPEED = timedelta(days=7) / timedelta(seconds=2)
CELLS = 5
PPM = 1_500_000


class Journal:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *line: object) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


KINDS = {
    kind.__name__: kind
    for kind in (Deposit, Withdraw, Transfer, PlaceBet, ConfirmBet, SettleBet, CancelBet, SettleChunk)
}
KINDS["PlaceBets"] = lambda *bets: PlaceBets(tuple(PlaceBet(*terms) for terms in bets))


def terms(command: object) -> list:
    if isinstance(command, PlaceBets):
        return [terms(bet) for bet in command.bets]
    return [getattr(command, name) for name in command.__dataclass_fields__]


def told(outcome: object) -> object:
    """What a journal keeps of an outcome."""
    if isinstance(outcome, tuple):
        return [told(one) for one in outcome]
    return outcome.bets if isinstance(outcome, ChunkSettlement) else outcome.model_dump(mode="json")


def clock_since(started: float):
    return lambda: NOON + (datetime.fromtimestamp(time.time()) - datetime.fromtimestamp(started)) * SPEED  # noqa: DTZ006


def a_move_of_money(books, users, chance):
    new_id, amount = books.engine.new_id(), chance.randint(1, 50)
    user, other = chance.sample(users, 2)
    return chance.choice(
        [Deposit(new_id, user, amount), Withdraw(new_id, user, amount), Transfer(new_id, user, other, 1)]
    )


async def play_a_bet(books, user, chance, execute):
    cell = f"cell {chance.randrange(CELLS)}"
    bet = await execute(PlaceBet(books.engine.new_id(), user, cell, chance.randint(1, 50), PPM))
    if chance.random() < 0.01:
        await asyncio.sleep(chance.random() / 5)  # it may be carried over meanwhile
    if chance.random() < 0.3:
        await execute(ConfirmBet(bet.id))
    await execute(CancelBet(bet.id) if chance.random() < 0.2 else SettleBet(bet.id, chance.random() < 0.5))


async def play_a_cell(books, users, chance, execute):
    """Bet in one batch on a cell of one's own, and settle it chunk by chunk."""
    cell, won = f"own {books.engine.new_id()}", chance.random() < 0.5
    bets = [
        PlaceBet(books.engine.new_id(), owner, cell, chance.randint(1, 50), PPM) for owner in chance.sample(users, 3)
    ]
    await execute(PlaceBets(tuple(bets)))
    for number in count(1):
        if (await execute(SettleChunk(cell, won, number, 2))).is_last:
            return


async def main(folder: str, journal: str, seed: int, seconds: float, started: float) -> None:
    chance, log, ends = random.Random(seed), Journal(journal), time.monotonic() + seconds
    clock = clock_since(started)

    async with open_books(Path(folder), clock, busy_timeout=timedelta(seconds=60)) as books:
        users = [(await books.users.by_wallet(f"0x{number}")).id for number in range(20)]

        async def execute(command):
            log.write("try", type(command).__name__, terms(command))
            outcome = await books.engine.execute(command)
            log.write("ack", type(command).__name__, terms(command), told(outcome))
            return outcome

        async def player():
            while time.monotonic() < ends:
                match chance.randrange(8):
                    case 0 | 1 | 2:
                        await execute(a_move_of_money(books, users, chance))
                    case 3:
                        await play_a_cell(books, users, chance, execute)
                    case _:
                        await play_a_bet(books, chance.choice(users), chance, execute)

        async def rotator():
            while time.monotonic() < ends:
                await books.partitions.rotate_to_new_week()
                await asyncio.sleep(0.1)

        log.write("ready")
        async with asyncio.TaskGroup() as group:
            group.create_task(rotator())
            for _ in range(TASKS):
                group.create_task(player())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
