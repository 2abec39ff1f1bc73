"""Asked again, a command answers what it came to the first time, says that it does, and changes nothing."""

from datetime import timedelta

import pytest
from ledger_files import CELL, open_books

from betcore_async.errors import ConcurrentUpdateError, InsufficientFundsError, InvalidTransitionError, ModelError
from betcore_async.models import Bet, BetStatus


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path) as books:
        yield books
        await books.assert_audit_is_clean()


@pytest.fixture
async def user(books):
    return await books.users.create("0xabc", 1_000)


async def everything_once(books, user, other):
    """Execute one command of every kind; returns their first outcomes, and how to ask each again."""
    users, bets, new_id = books.users, books.bets, books.engine.new_id
    settled, cancelled, lost = [await bets.place(user.id, CELL, 10, 2.0) for _ in range(3)]
    ids = {name: new_id() for name in ("create", "deposit", "withdraw", "transfer", "place", "refused")}
    calls = {
        "create": lambda books: books.users.create("0xnew", 5, id=ids["create"]),
        "deposit": lambda books: books.users.deposit(user.id, 5, id=ids["deposit"]),
        "withdraw": lambda books: books.users.withdraw(user.id, 5, id=ids["withdraw"]),
        "transfer": lambda books: books.users.transfer(user.id, other.id, 5, id=ids["transfer"]),
        "place": lambda books: books.bets.place(user.id, "cell", 5, 2.0, id=ids["place"]),
        "refused": lambda books: books.bets.place(user.id, "cell", 10**9, 2.0, id=ids["refused"]),
        "confirm": lambda books: books.bets.confirm(settled.id),
        "settle": lambda books: books.bets.settle(settled.id, True),
        "lose": lambda books: books.bets.settle(lost.id, False),
        "cancel": lambda books: books.bets.cancel(cancelled.id),
        "settle_cell": lambda books: books.bets.settle_cell("cell", True),
    }
    first = {name: await call(books) for name, call in calls.items()}
    await users.deposit(ids["create"], 1)  # whatever happens later
    return first, calls


@pytest.mark.parametrize("weeks", [0, 1])
async def test_every_command_returns_its_first_outcome_whatever_has_happened_since(books, user, tmp_path, weeks):
    other = await books.users.create("0xother", 0)
    first, calls = await everything_once(books, user, other)
    assert not any(outcome.replayed for outcome in first.values())
    for _ in range(weeks):
        await books.next_week()
    before = (await books.ledger.audit()).counts
    async with open_books(tmp_path, books.clock) as elsewhere:
        for asked in (books, elsewhere):
            for name, call in calls.items():
                again = await call(asked)
                assert again == first[name], name
                assert again.replayed, name
    assert (await books.ledger.audit()).counts == before
    assert first["confirm"].status is BetStatus.CONFIRMED


async def test_a_confirmation_is_remembered_until_the_bet_is_decided_weeks_later(books, user):
    bet = await books.bets.place(user.id, CELL, 10, 2.0)
    books.clock.advance(timedelta(hours=1))
    confirmed = await books.bets.confirm(bet.id)
    await books.next_week()
    await books.bets.settle(bet.id, False)
    await books.next_week()
    again = await books.bets.confirm(bet.id)
    assert again == confirmed
    assert again.replayed


async def test_a_bet_that_never_was_confirmed_cannot_have_been(books, user):
    bet = await books.bets.place(user.id, CELL, 10, 2.0)
    await books.bets.settle(bet.id, False)
    with pytest.raises(InvalidTransitionError):
        await books.bets.confirm(bet.id)


async def test_that_an_answer_is_a_repeat_is_no_part_of_the_row(books, user):
    identifier = books.engine.new_id()
    first, again = [await books.bets.place(user.id, CELL, 10, 2.0, id=identifier) for _ in range(2)]
    assert (first.replayed, again.replayed) == (False, True)
    assert first == again
    assert hash(first) == hash(again)
    assert first.model_dump() == again.model_dump()
    assert first.model_dump_json() == again.model_dump_json()
    assert repr(first) == repr(again)
    assert Bet.model_validate(again.model_dump()) == first
    assert not (await books.bets.get(first.id)).replayed


async def test_a_refusal_raised_again_says_that_it_is_a_repeat(books, user):
    identifier = books.engine.new_id()
    for replayed in (False, True):
        with pytest.raises(InsufficientFundsError) as caught:
            await books.bets.place(user.id, CELL, 10**9, 2.0, id=identifier, require_funds=True)
        assert caught.value.bet.replayed is replayed


# A version that was seen


CHANGES = {
    "deposit": lambda books, one, _, **options: books.users.deposit(one.id, 5, **options),
    "withdraw": lambda books, one, _, **options: books.users.withdraw(one.id, 5, **options),
    "transfer": lambda books, one, two, **options: books.users.transfer(one.id, two.id, 5, **options),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_change_that_expects_a_version_is_made_of_that_version_alone(books, user, change):
    other = await books.users.create("0xother", 100)
    await change(books, user, other, expected_version=1)
    before = await books.users.get(user.id)
    assert before.version == 2
    with pytest.raises(ConcurrentUpdateError) as caught:
        await change(books, user, other, expected_version=1)
    assert (caught.value.user_id, caught.value.expected, caught.value.version) == (user.id, 1, 2)
    assert await books.users.get(user.id) == before
    await books.next_week()  # versions go on
    await change(books, user, other, expected_version=2)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_repeat_needs_the_version_no_more(books, user, change):
    other = await books.users.create("0xother", 100)
    identifier = books.engine.new_id()
    first = await change(books, user, other, id=identifier, expected_version=1)
    for expected in (1, 2, 7, None):
        again = await change(books, user, other, id=identifier, expected_version=expected)
        assert again == first
        assert again.replayed


async def test_of_many_who_saw_the_same_version_one_is_first(books, user):
    outcomes = []
    for _ in range(5):
        try:
            outcomes.append(await books.users.withdraw(user.id, 5, expected_version=1))
        except ConcurrentUpdateError as error:
            outcomes.append(error)
    assert sum(not isinstance(outcome, Exception) for outcome in outcomes) == 1


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1"])
async def test_a_version_is_a_whole_number_from_one(books, user, version):
    with pytest.raises(ModelError) as caught:
        await books.users.deposit(user.id, 5, expected_version=version)
    assert caught.value.field == "expected_version"


# Rows that are kept, whatever SQL is used


ENTRY = "id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at"
REPLACING = [
    "INSERT OR REPLACE INTO users SELECT id, wallet_address, balance + 1, version, created_at, updated_at FROM users",
    "REPLACE INTO bets SELECT id, user_id, cell_id, 1, reward_ppm, status, placed_at, NULL, NULL, NULL FROM bets",
    (
        f"REPLACE INTO ledger_entries ({ENTRY}) SELECT id, user_id, version, amount, balance_after + 1, ref_type,"
        " ref_id, metadata, created_at FROM ledger_entries"
    ),
    (  # another id, but the place of an entry that is there
        f"REPLACE INTO ledger_entries ({ENTRY}) SELECT 'new', user_id, version, amount, balance_after, ref_type,"
        " ref_id, metadata, created_at FROM ledger_entries LIMIT 1"
    ),
    "INSERT OR REPLACE INTO cell_settlements SELECT cell_id, chunk, 0, upto, bets, 0, 0, 1, 0 FROM cell_settlements",
]


@pytest.mark.parametrize("sql", REPLACING)
async def test_nothing_is_replaced_by_sql_of_somebody_elses(books, user, sql):
    await books.bets.place(user.id, CELL, 10, 2.0)
    await books.bets.settle_cell("empty", True)
    before = await books.ledger.audit()
    with pytest.raises(Exception, match="never deleted"):
        await books.partitions.write(lambda raw, _: raw.execute(sql))
    assert await books.ledger.audit() == before
    assert (await books.users.get(user.id)).balance == 990
