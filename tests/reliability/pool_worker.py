"""One of several processes that move money around in the same file: `pool_worker.py FILE SECONDS SEED`, prints JSON."""

import asyncio
import json
import random
import sys
from datetime import timedelta
from time import monotonic

from betcore_async.config import DatabaseSettings
from betcore_async.sqlite import SQLitePool

ACCOUNTS = 10
LEAST = 10
"""Moves that a process makes at least, however long the others keep it waiting."""
SETTINGS = DatabaseSettings(max_open_conns=3, max_idle_conns=2, busy_timeout=timedelta(seconds=60))


async def main(path: str, seconds: float, seed: int) -> None:
    chance, ends, done = random.Random(seed), monotonic() + seconds, {"moves": 0, "reads": 0, "errors": []}

    def move(raw, source, target, amount):
        # Read, decide, write: what loses updates where transactions leak.
        balance = raw.execute("SELECT balance FROM accounts WHERE id = ?", (source,)).fetchone()[0]
        if balance < amount:
            return 0
        raw.execute("UPDATE accounts SET balance = ? WHERE id = ?", (balance - amount, source))
        raw.execute("UPDATE accounts SET balance = balance + ? WHERE id = ?", (amount, target))
        raw.execute("INSERT INTO moves (worker, amount) VALUES (?, ?)", (seed, amount))
        return 1

    async def work(pool, kind):
        while monotonic() < ends or (done["moves"] <= LEAST and not done["errors"]):
            source, target = chance.sample(range(ACCOUNTS), 2)
            amount = chance.randint(1, 100)
            if kind == "write":
                moved = await pool.write(lambda raw, s=source, t=target, a=amount: move(raw, s, t, a))
                done["moves"] += moved
            elif kind == "transaction":
                async with pool.transaction() as transaction:
                    moved = await transaction.run(lambda raw, s=source, t=target, a=amount: move(raw, s, t, a))
                done["moves"] += moved
            else:
                total = await pool.fetch_value("SELECT sum(balance) FROM accounts")
                done["reads"] += 1
                if total != ACCOUNTS * 1000:
                    done["errors"].append(f"a reader saw a total of {total}")

    async def guarded(pool, kind):
        try:
            await work(pool, kind)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is told
            done["errors"].append(repr(error))

    async with SQLitePool(path, SETTINGS) as pool:
        kinds = ["write"] * 6 + ["transaction"] * 2 + ["read"] * 2
        await asyncio.gather(*(guarded(pool, kind) for kind in kinds))
        done["busy_retries"] = pool.stats().busy_retries
    print(json.dumps(done))  # noqa: T201 - read by the test


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
