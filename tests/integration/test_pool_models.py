"""Rows as models, made in bulk: what fits comes out validated, what does not says where."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict

from betcore_async.clock import from_microseconds
from betcore_async.config import DatabaseSettings
from betcore_async.errors import DatabaseError, ModelError
from betcore_async.models import Bet, BetStatus, User
from betcore_async.sqlite import SQLitePool
from betcore_async.sqlite.mapping import AT_A_TIME

ROWS = 2 * AT_A_TIME + 7
FIELDS = "id, owner, opened_at, note"
BETS = f"SELECT {Bet.COLUMNS} FROM bets"


class Account(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int
    owner: str
    opened_at: Annotated[datetime, BeforeValidator(from_microseconds)]
    note: str | None


@dataclass
class Owner:
    id: int
    owner: str


@pytest.fixture
async def pool(tmp_path):
    async with SQLitePool(tmp_path / "a.db", DatabaseSettings(max_open_conns=2, max_idle_conns=1)) as pool:
        await pool.execute("CREATE TABLE accounts (id INTEGER PRIMARY KEY, owner TEXT, opened_at INTEGER, note TEXT)")
        rows = [(n, f"owner {n}", 1_700_000_000_000_000 + n, None) for n in range(ROWS)]
        await pool.execute_many("INSERT INTO accounts VALUES (?, ?, ?, ?)", rows)
        await pool.execute(f"CREATE TABLE bets ({Bet.COLUMNS})")
        await pool.execute("INSERT INTO bets VALUES ('b', 'u', 'c', 100, 1130000, 'won', 1000000, 2000000, 113)")
        yield pool


def accounts() -> list[Account]:
    return [Account(id=n, owner=f"owner {n}", opened_at=1_700_000_000_000_000 + n, note=None) for n in range(ROWS)]


async def streamed(pool, sql, **options):
    return [model async for model in pool.iterate(sql, **options)]


async def test_every_row_becomes_a_validated_model_in_order(pool):
    expected = accounts()
    made = await pool.fetch_all(f"SELECT {FIELDS} FROM accounts ORDER BY id", as_model=Account)
    assert made == expected
    assert made[0].opened_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert await streamed(pool, f"SELECT {FIELDS} FROM accounts ORDER BY id", chunk=50, as_model=Account) == expected
    assert await pool.fetch_all(f"SELECT {FIELDS} FROM accounts WHERE id = ?", (-1,), as_model=Account) == []


async def test_whatever_pydantic_validates_is_a_model(pool):
    sql = "SELECT id, owner FROM accounts WHERE id = 1"
    assert await pool.fetch_all(sql, as_model=Owner) == [Owner(1, "owner 1")]
    assert await pool.fetch_all(sql, as_model=dict[str, str | int]) == [{"id": 1, "owner": "owner 1"}]


async def test_models_of_the_library_are_read_as_their_tables_keep_them(pool):
    (bet,) = await pool.fetch_all(BETS, as_model=Bet)
    assert (bet.status, bet.reward_rate, bet.payout_amount) == (BetStatus.WON, 1.13, 113)
    assert bet.placed_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert Bet.model_validate(bet.model_dump()) == bet
    assert await streamed(pool, BETS, as_model=Bet) == [bet]


@pytest.mark.parametrize(
    ("model", "sql"),
    [
        (Bet, "SELECT * FROM bets"),
        (Bet, "SELECT user_id, id FROM bets"),
        (User, BETS),
        (Owner, "SELECT id, owner, id FROM accounts"),
    ],
)
async def test_columns_that_cannot_fit_are_an_error_before_any_row(pool, model, sql):
    if sql == "SELECT * FROM bets":  # the order of the table is that of the model: nothing to complain of
        assert len(await pool.fetch_all(sql, as_model=model)) == 1
        return
    with pytest.raises(DatabaseError, match=f"as_model={model.__name__}"):
        await pool.fetch_all(sql, as_model=model)
    with pytest.raises(DatabaseError, match=f"as_model={model.__name__}"):
        await streamed(pool, sql, as_model=model)


@pytest.mark.parametrize("row", [0, AT_A_TIME - 1, AT_A_TIME, ROWS - 1])
async def test_a_row_that_does_not_fit_is_told_by_its_number_and_field_but_not_its_value(pool, row):
    sql = f"SELECT iif(id = {row}, 'secret', id) AS id, owner, opened_at, note FROM accounts ORDER BY accounts.id"
    for call in (pool.fetch_all, partial(streamed, pool, chunk=30)):
        with pytest.raises(ModelError, match=f"row {row + 1} does not fit Account: id: ") as caught:
            await call(sql, as_model=Account)
        assert (caught.value.row, caught.value.field) == (row + 1, "id")
        assert "secret" not in str(caught.value)
    await pool.execute("DELETE FROM accounts")
    assert await pool.fetch_value("SELECT count(*) FROM accounts") == 0  # the failed query holds on to no snapshot
    assert pool.stats().broken == 0
