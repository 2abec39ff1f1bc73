"""Users and their money: real weekly files, and what a caller may rely on."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from ledger_files import NOON, WEEK, id_born, open_books, path_of

from betcore_async.clock import ManualClock
from betcore_async.errors import (
    IdempotencyConflictError,
    InsufficientFundsError,
    LedgerError,
    ModelError,
    PartitionMissingError,
    UserExistsError,
    UserNotFoundError,
)
from betcore_async.models import MAX_MONEY
from betcore_async.partitions import Week


@pytest.fixture
async def books(tmp_path):
    async with open_books(tmp_path) as books:
        yield books
        await books.assert_audit_is_clean()


# Accounts


async def test_a_new_user_has_the_opening_balance_and_an_entry_that_says_so(books):
    user = await books.users.create("0xabc", 10_000)
    assert (user.wallet_address, user.balance, user.version) == ("0xabc", 10_000, 1)
    assert user.created_at == user.updated_at == NOON
    assert await books.users.get(user.id) == await books.users.by_wallet("0xabc") == user
    (entry,) = await books.ledger.entries(user.id)
    assert (entry.ref_type, entry.ref_id, entry.amount, entry.balance_after) == ("opening", user.id, 10_000, 10_000)


async def test_a_wallet_address_has_one_account_however_many_ask_at_once(books):
    outcomes = await asyncio.gather(*(books.users.create("0xabc", 5) for _ in range(20)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, UserExistsError)]
    assert len(refused) == 19
    assert {error.wallet_address for error in refused} == {"0xabc"}


@pytest.mark.parametrize("name", ["a", "x" * 256, "Ünïcødé 🎲", "line\nbreak", "' OR 1=1 --", "א\u202e", " "])
async def test_any_readable_wallet_address_comes_back_as_it_was(books, name):
    user = await books.users.create(name)
    assert (await books.users.by_wallet(name)).id == user.id
    assert (await books.users.get(user.id)).wallet_address == name
    await books.next_week()
    assert (await books.users.by_wallet(name)).id == user.id


@pytest.mark.parametrize("name", ["", "x" * 257, "a\0b", "\ud800", None, 5, b"bytes"])
async def test_a_wallet_address_that_cannot_be_kept_is_refused(books, name):
    with pytest.raises(ModelError) as caught:
        await books.users.create(name)
    assert caught.value.field == "wallet_address"
    with pytest.raises(ModelError):
        await books.users.by_wallet(name)


@pytest.mark.parametrize("amount", [-1, True, 1.0, "5", None, MAX_MONEY + 1])
async def test_an_opening_balance_is_a_whole_number_of_minor_units(books, amount):
    with pytest.raises(ModelError) as caught:
        await books.users.create("0xabc", amount)
    assert caught.value.field == "opening_balance"


async def test_an_unknown_user_is_told(books):
    with pytest.raises(UserNotFoundError) as caught:
        await books.users.get("nobody")
    assert caught.value.user_id == "nobody"
    with pytest.raises(UserNotFoundError) as caught:
        await books.users.by_wallet("nothing")
    assert caught.value.wallet_address == "nothing"
    for call in (books.users.deposit("nobody", 5), books.users.withdraw("nobody", 5), books.ledger.balance("nobody")):
        with pytest.raises(UserNotFoundError):
            await call


@pytest.mark.parametrize("user_id", ["\ud800", "a\0b", None, 7, ""])
async def test_something_that_cannot_be_a_user_id_is_refused(books, user_id):
    calls = [
        books.users.get(user_id),
        books.users.deposit(user_id, 1),
        books.users.withdraw(user_id, 1),
        books.ledger.balance(user_id),
        books.ledger.entries(user_id),
        books.bets.history(user_id),
        books.bets.place(user_id, "cell", 1, 2.0),
    ]
    for call in calls:
        with pytest.raises(ModelError):
            await call


# Deposits and withdrawals


async def test_money_comes_and_goes_with_an_entry_each(books):
    user = await books.users.create("0xabc", 100)
    paid_in = await books.users.deposit(user.id, 50)
    paid_out = await books.users.withdraw(user.id, 150)
    assert (paid_in.ref_type, paid_in.amount, paid_in.balance_after) == ("deposit", 50, 150)
    assert (paid_out.ref_type, paid_out.amount, paid_out.balance_after) == ("withdrawal", -150, 0)
    now = await books.users.get(user.id)
    assert (now.balance, now.version) == (0, 3)
    assert [entry.ref_type for entry in await books.ledger.entries(user.id)] == ["withdrawal", "deposit", "opening"]


async def test_more_than_there_is_cannot_be_withdrawn(books):
    user = await books.users.create("0xabc", 100)
    with pytest.raises(InsufficientFundsError) as caught:
        await books.users.withdraw(user.id, 101)
    assert (caught.value.user_id, caught.value.balance, caught.value.amount) == (user.id, 100, 101)
    assert await books.users.get(user.id) == user


async def test_a_balance_never_grows_beyond_what_a_column_holds(books):
    user = await books.users.create("0xabc", MAX_MONEY)
    with pytest.raises(LedgerError, match="too much") as caught:
        await books.users.deposit(user.id, 1)
    assert caught.value.user_id == user.id
    await books.users.withdraw(user.id, MAX_MONEY)
    await books.users.deposit(user.id, MAX_MONEY)
    assert await books.ledger.balance(user.id) == MAX_MONEY


async def test_users_may_own_more_together_than_one_column_holds(books):
    for number in range(3):
        await books.users.create(f"0x{number}", MAX_MONEY)
    report = await books.ledger.audit()
    assert report.ok
    assert report.counts["held"] == report.counts["money_in"] == 3 * MAX_MONEY


@pytest.mark.parametrize("amount", [0, -5, True, 2.5, 2.0, "7", None, MAX_MONEY + 1, float("nan")])
async def test_an_amount_is_a_positive_whole_number(books, amount):
    user = await books.users.create("0xabc", 100)
    other = await books.users.create("0xdef", 100)
    for call in (
        books.users.deposit(user.id, amount),
        books.users.withdraw(user.id, amount),
        books.users.transfer(user.id, other.id, amount),
        books.bets.place(user.id, "cell", amount, 2.0),
    ):
        with pytest.raises(ModelError) as caught:
            await call
        assert caught.value.field == "amount"


async def test_a_hundred_concurrent_withdrawals_never_overdraw(books):
    user = await books.users.create("0xabc", 1_000)
    outcomes = await asyncio.gather(*(books.users.withdraw(user.id, 30) for _ in range(100)), return_exceptions=True)
    assert sum(isinstance(outcome, InsufficientFundsError) for outcome in outcomes) == 67
    assert await books.ledger.balance(user.id) == 10


# Transfers


async def test_a_transfer_takes_from_one_and_gives_to_the_other(books):
    payer, payee = await books.users.create("0xabc", 100), await books.users.create("0xdef", 1)
    entry = await books.users.transfer(payer.id, payee.id, 60)
    assert (entry.user_id, entry.amount, entry.balance_after) == (payer.id, -60, 40)
    assert entry.metadata == {"to": payee.id}
    (received, _) = await books.ledger.entries(payee.id)
    assert (received.ref_type, received.amount, received.balance_after) == ("transfer_in", 60, 61)
    assert received.ref_id == entry.ref_id
    assert received.metadata == {"from": payer.id}


async def test_a_transfer_that_fails_moves_nothing(books):
    payer, full = await books.users.create("0xabc", 100), await books.users.create("0xdef", MAX_MONEY)
    for call, error in (
        (books.users.transfer(payer.id, "nobody", 60), UserNotFoundError),
        (books.users.transfer("nobody", payer.id, 60), UserNotFoundError),
        (books.users.transfer(payer.id, full.id, 60), LedgerError),
        (books.users.transfer(payer.id, full.id, 101), InsufficientFundsError),
        (books.users.transfer(payer.id, payer.id, 1), ModelError),
    ):
        with pytest.raises(error):
            await call
    assert await books.users.get(payer.id) == payer
    assert await books.users.get(full.id) == full


async def test_transfers_in_both_directions_at_once_keep_the_sum(books):
    one, two = await books.users.create("0xabc", 500), await books.users.create("0xdef", 500)
    await asyncio.gather(
        *(books.users.transfer(one.id, two.id, 7) for _ in range(50)),
        *(books.users.transfer(two.id, one.id, 9) for _ in range(50)),
        return_exceptions=True,
    )
    assert await books.ledger.balance(one.id) + await books.ledger.balance(two.id) == 1_000


# Ids


def commands_of(books, user_id, other_id, identifier):
    return {
        "create": lambda: books.users.create("0xnew", 25, id=identifier),
        "deposit": lambda: books.users.deposit(user_id, 10, id=identifier),
        "withdraw": lambda: books.users.withdraw(user_id, 10, id=identifier),
        "transfer": lambda: books.users.transfer(user_id, other_id, 10, id=identifier),
        "place": lambda: books.bets.place(user_id, "cell", 10, 2.0, id=identifier),
        "place unfunded": lambda: books.bets.place(user_id, "cell", 10**9, 2.0, id=identifier),
    }


KINDS = ["create", "deposit", "withdraw", "transfer", "place", "place unfunded"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_repeated_command_returns_its_outcome_and_changes_nothing(books, kind):
    one, two = await books.users.create("0xabc", 500), await books.users.create("0xdef", 500)
    command = commands_of(books, one.id, two.id, books.engine.new_id())[kind]
    first = await command()
    before = await books.ledger.audit()
    assert await command() == first
    assert await asyncio.gather(*(command() for _ in range(10))) == [first] * 10
    assert await books.ledger.audit() == before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_sent_many_times_at_once_happens_once(books, kind):
    one, two = await books.users.create("0xabc", 500), await books.users.create("0xdef", 500)
    command = commands_of(books, one.id, two.id, books.engine.new_id())[kind]
    first, *others = await asyncio.gather(*(command() for _ in range(20)))
    assert others == [first] * 19


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weeks", [1, 3])
async def test_a_command_repeated_after_rotations_happens_once(books, kind, weeks):
    one, two = await books.users.create("0xabc", 500), await books.users.create("0xdef", 500)
    command = commands_of(books, one.id, two.id, books.engine.new_id())[kind]
    first = await command()
    before = [user.balance for user in (await books.users.get(one.id), await books.users.get(two.id))]
    for _ in range(weeks):
        await books.next_week()
        assert await command() == first
    assert [user.balance for user in (await books.users.get(one.id), await books.users.get(two.id))] == before


@pytest.mark.parametrize("kind", KINDS)
async def test_a_command_of_the_new_week_executed_before_a_late_rotation_happens_once(books, kind):
    one, two = await books.users.create("0xabc", 500), await books.users.create("0xdef", 500)
    books.clock.now = datetime(2026, 11, 23, 0, 0, 2, tzinfo=UTC)  # Monday; nobody has rotated yet
    command = commands_of(books, one.id, two.id, books.engine.new_id())[kind]
    first = await command()
    await books.partitions.rotate_to_new_week()
    assert books.partitions.current_week.name == "2026-W48"
    assert await command() == first
    books.clock.advance(timedelta(days=20))
    await books.partitions.rotate_to_new_week()
    assert await command() == first


async def test_a_command_executed_weeks_after_its_file_should_have_been_rotated_happens_once(books):
    user = await books.users.create("0xabc", 500)
    books.clock.advance(5 * WEEK)  # still the first week's file
    identifier = books.engine.new_id()
    first = await books.users.deposit(user.id, 10, id=identifier)
    bet = await books.bets.settle((await books.bets.place(user.id, "cell", 10, 2.0)).id, True)
    for _ in range(3):
        await books.next_week()
        assert await books.users.deposit(user.id, 10, id=identifier) == first
        assert await books.bets.get(bet.id) == await books.bets.settle(bet.id, True) == bet


async def test_a_command_from_a_clock_that_is_ahead_happens_once_over_a_rotation(books):
    user = await books.users.create("0xabc", 500)
    books.clock.now = datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)
    ahead = id_born(books.clock.now + timedelta(days=6))
    first = await books.users.deposit(user.id, 10, id=ahead)
    books.clock.now += timedelta(minutes=1)  # weeks begin in time: when the id is born, its week's file is days old
    await books.partitions.rotate_to_new_week()
    for _ in range(2):
        assert await books.users.deposit(user.id, 10, id=ahead) == first
        await books.next_week()
    assert await books.users.deposit(user.id, 10, id=ahead) == first
    assert await books.ledger.balance(user.id) == 510


@pytest.mark.parametrize("weeks", [0, 1, 6])  # six weeks later the date of the ids is past
async def test_what_was_done_while_the_clock_was_a_month_ahead_is_not_done_again(books, tmp_path, weeks):
    user = await books.users.create("0xabc", 100)
    right = books.clock.now
    books.clock.advance(timedelta(days=30))
    identifier, bet_id = books.engine.new_id(), books.engine.new_id()
    first = await books.users.deposit(user.id, 10, id=identifier)
    placed = await books.bets.place(user.id, "cell", 10, 1.9, id=bet_id)
    settled = await books.bets.settle(bet_id, True)
    books.clock.now = right + timedelta(minutes=1)
    async with open_books(tmp_path, books.clock) as asleep:
        for _ in range(weeks):
            await books.next_week()
        assert await asleep.users.deposit(user.id, 10, id=identifier) == first
    async with open_books(tmp_path, books.clock) as elsewhere:
        for asked in (books, elsewhere):
            assert await asked.users.deposit(user.id, 10, id=identifier) == first
            assert await asked.bets.place(user.id, "cell", 10, 1.9, id=bet_id) == placed
            assert await asked.bets.get(bet_id) == settled
            assert await asked.bets.settle(bet_id, True) == settled
            with pytest.raises(IdempotencyConflictError):
                await asked.users.deposit(user.id, 11, id=identifier)
    assert await books.ledger.balance(user.id) == 119


async def test_what_an_overdue_week_took_is_not_done_again_where_late_rotations_go_week_by_week(books, tmp_path):
    user = await books.users.create("0xabc", 100)
    books.clock.advance(5 * WEEK)
    identifier, bet_id = books.engine.new_id(), books.engine.new_id()
    first = await books.users.deposit(user.id, 10, id=identifier)
    await books.bets.place(user.id, "cell", 10, 1.9, id=bet_id)
    settled = await books.bets.settle(bet_id, True)
    for _ in range(2):  # each is over when it is born
        await books.partitions.rotate_to_new_week(books.partitions.current_week.next())
    async with open_books(tmp_path, books.clock) as elsewhere:
        for asked in (books, elsewhere):
            assert await asked.users.deposit(user.id, 10, id=identifier) == first
            assert await asked.bets.get(bet_id) == settled
    await books.partitions.rotate_to_new_week()
    assert await books.users.deposit(user.id, 10, id=identifier) == first


async def test_after_the_clock_was_a_month_ahead_commands_go_on(books):
    user = await books.users.create("0xabc", 100)
    books.clock.advance(timedelta(days=30))
    await books.users.deposit(user.id, 10)
    books.clock.advance(timedelta(days=-30))
    await books.users.deposit(user.id, 10)
    assert await books.ledger.balance(user.id) == 120


async def test_an_id_that_a_week_took_when_it_was_overdue_is_not_used_again_where_that_week_is_gone(books, tmp_path):
    user = await books.users.create("0xabc", 100)
    books.clock.advance(WEEK)  # and nobody rotates
    identifier = books.engine.new_id()
    first = await books.users.deposit(user.id, 10, id=identifier)
    books.clock.advance(timedelta(minutes=1))
    week = books.partitions.current_week
    await books.partitions.rotate_to_new_week()
    await books.partitions.detach_partition(week)
    books.clock.advance(timedelta(minutes=1))
    with pytest.raises(PartitionMissingError) as caught:
        await books.users.deposit(user.id, 10, id=identifier)
    assert caught.value.weeks == (week,)
    await books.users.deposit(user.id, 10)  # a fresh one needs no week before
    await books.partitions.attach_partition(week, path_of(tmp_path, week.name))
    assert await books.users.deposit(user.id, 10, id=identifier) == first


@pytest.mark.parametrize(("late", "weeks"), [(0, 1), (4, 1), (9, 2)])
async def test_an_id_from_a_clock_that_is_ahead_is_not_used_again_where_its_week_is_gone(tmp_path, late, weeks):
    clock = ManualClock(NOON)
    async with open_books(tmp_path, clock) as books:
        user = await books.users.create("0xabc", 100)
        clock.advance(timedelta(days=late))  # and nobody rotates
        identifier = id_born(clock() + timedelta(days=6))
        first = await books.users.deposit(user.id, 10, id=identifier)
        for _ in range(weeks):
            clock.advance(timedelta(days=5))
            await books.partitions.rotate_to_new_week(books.partitions.current_week.next())
    gone = path_of(tmp_path, "2026-W47")
    gone.rename(tmp_path / "gone")
    async with open_books(tmp_path, clock) as books:
        with pytest.raises(PartitionMissingError) as caught:
            await books.users.deposit(user.id, 10, id=identifier)
        assert caught.value.weeks == (Week("2026-W47"),)
        made_today = books.engine.new_id()
        second = await books.users.deposit(user.id, 7, id=made_today)
        clock.advance(timedelta(minutes=5))
        again = await books.users.deposit(user.id, 7, id=made_today)  # this week knows it
        assert (again, again.replayed) == (second, True)
        (tmp_path / "gone").rename(gone)
        assert await books.users.deposit(user.id, 10, id=identifier) == first
        assert await books.ledger.balance(user.id) == 117
        await books.assert_audit_is_clean()


async def test_an_id_from_far_in_the_future_is_refused(books):
    user = await books.users.create("0xabc", 500)
    for ahead in (id_born(NOON + timedelta(days=8)), id_born(datetime(9999, 12, 31, tzinfo=UTC))):
        with pytest.raises(ModelError, match="future") as caught:
            await books.users.deposit(user.id, 10, id=ahead)
        assert caught.value.field == "id"
    beyond = "ffffffff-ffff-7fff-bfff-ffffffffffff"  # its time is after the year 9999
    for call in (books.users.deposit(user.id, 10, id=beyond), books.bets.get(beyond), books.bets.settle(beyond, True)):
        with pytest.raises(ModelError):
            await call


async def test_an_id_made_long_ago_and_used_now_happens_once(books):
    user = await books.users.create("0xabc", 500)
    old = id_born(datetime(1970, 1, 1, tzinfo=UTC))
    first = await books.users.deposit(user.id, 10, id=old)
    await books.next_week()
    assert await books.users.deposit(user.id, 10, id=old) == first
    assert await books.ledger.balance(user.id) == 510


@pytest.mark.parametrize("weeks", [0, 1])
@pytest.mark.parametrize(
    ("field", "value"),
    [("amount", 11), ("user", None), ("kind", "withdraw"), ("kind", "transfer"), ("kind", "place"), ("kind", "create")],
)
async def test_an_id_with_other_terms_is_a_conflict(books, weeks, field, value):
    one, two = await books.users.create("0xabc", 500), await books.users.create("0xdef", 500)
    identifier = books.engine.new_id()
    await books.users.deposit(one.id, 10, id=identifier)
    for _ in range(weeks):
        await books.next_week()
    before = await books.ledger.audit()
    other = {
        "amount": lambda: books.users.deposit(one.id, 11, id=identifier),
        "user": lambda: books.users.deposit(two.id, 10, id=identifier),
        "kind": commands_of(books, one.id, two.id, identifier).get(value),
    }[field]
    with pytest.raises(IdempotencyConflictError) as caught:
        await other()
    assert caught.value.id == identifier
    assert await books.ledger.audit() == before


@pytest.mark.parametrize("weeks", [0, 1])
@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(KINDS, 2)])
async def test_an_id_is_good_for_one_command(books, weeks, first, second):
    one, two = await books.users.create("0xabc", 500), await books.users.create("0xdef", 500)
    commands = commands_of(books, one.id, two.id, books.engine.new_id())
    await commands[first]()
    for _ in range(weeks):
        await books.next_week()
    with pytest.raises(IdempotencyConflictError):
        await commands[second]()


@pytest.mark.parametrize("weeks", [0, 1])
async def test_an_account_opened_again_on_other_terms_is_a_conflict(books, weeks):
    user = await books.users.create("0xabc", 500)
    await books.users.deposit(user.id, 1)
    for _ in range(weeks):
        await books.next_week()
    again = await books.users.create("0xabc", 500, id=user.id)
    assert again == user
    assert again.replayed
    assert (await books.users.get(user.id)).balance == 501
    for wallet, balance in (("0xabc", 501), ("0xabc", 0), ("0xother", 500)):
        with pytest.raises(IdempotencyConflictError):
            await books.users.create(wallet, balance, id=user.id)


async def test_a_transfer_to_somebody_else_under_the_same_id_is_a_conflict(books):
    one, two, three = [await books.users.create(f"0x{number}", 100) for number in range(3)]
    identifier = books.engine.new_id()
    await books.users.transfer(one.id, two.id, 10, id=identifier)
    with pytest.raises(IdempotencyConflictError):
        await books.users.transfer(one.id, three.id, 10, id=identifier)


async def test_a_refused_command_may_be_tried_again_under_its_id(books):
    user = await books.users.create("0xabc", 5)
    identifier = books.engine.new_id()
    with pytest.raises(InsufficientFundsError):
        await books.users.withdraw(user.id, 10, id=identifier)
    await books.users.deposit(user.id, 5)
    assert (await books.users.withdraw(user.id, 10, id=identifier)).balance_after == 0


@pytest.mark.parametrize("identifier", ["", "7", "0199C4F2-7D1C-7A30-8C5E-3B1F0A9D2E47", 5, "x" * 36])
async def test_an_id_that_is_no_uuid7_is_refused(books, identifier):
    user = await books.users.create("0xabc", 5)
    with pytest.raises(ModelError) as caught:
        await books.users.deposit(user.id, 10, id=identifier)
    assert caught.value.field == "id"


async def test_a_repeat_is_not_taken_for_new_while_the_week_that_knows_is_away(tmp_path):
    clock = ManualClock(NOON)
    async with open_books(tmp_path, clock) as books:
        user = await books.users.create("0xabc", 500)
        identifier = books.engine.new_id()
        first = await books.users.deposit(user.id, 10, id=identifier)
        week = books.partitions.current_week
        await books.next_week()
        await books.partitions.detach_partition(week)
        with pytest.raises(PartitionMissingError) as caught:
            await books.users.deposit(user.id, 10, id=identifier)
        assert caught.value.weeks == (week,)
        await books.users.deposit(user.id, 5)  # fresh ids need no old week
    async with open_books(tmp_path, clock) as books:  # the week is back
        assert await books.users.deposit(user.id, 10, id=identifier) == first
        assert await books.ledger.balance(user.id) == 515


# Time


async def test_times_are_those_of_the_clock_within_the_live_week(books):
    user = await books.users.create("0xabc", 500)
    books.clock.now = NOON + 3 * WEEK  # nobody has rotated
    entry = await books.users.deposit(user.id, 1)
    assert entry.created_at == books.partitions.current_week.end - timedelta(microseconds=1)
    assert (await books.users.get(user.id)).updated_at == entry.created_at


async def test_a_clock_that_goes_backwards_never_takes_updated_at_along(books):
    user = await books.users.create("0xabc", 500)
    books.clock.now = NOON - timedelta(hours=5)
    entry = await books.users.deposit(user.id, 1)
    assert entry.created_at == books.clock.now
    assert (await books.users.get(user.id)).updated_at == NOON
    books.clock.now = NOON - 2 * WEEK
    assert (await books.users.deposit(user.id, 1)).created_at == books.partitions.current_week.start


async def test_ids_that_the_ledger_makes_grow_also_when_the_clock_goes_backwards(tmp_path):
    async with open_books(tmp_path, ManualClock(NOON)) as books:
        first = books.engine.new_id()
        books.clock.now -= timedelta(days=1)
        assert books.engine.new_id() > first
