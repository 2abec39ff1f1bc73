"""Killed at any byte of its commit, a command has happened whole or not at all; engines that are less are caught."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from ledger_files import CELL, NOON, WEEK, open_books, path_of
from reliability.crash_points import Crash, log_of
from reliability.mortal_books import is_replay

from betcore_async.clock import ManualClock, to_microseconds
from betcore_async.errors import CommitOutcomeUnknownError
from betcore_async.models import LedgerEntry
from betcore_async.partitions import chain
from betcore_async.sqlite.connection import open_raw
from betcore_async.sqlite.group import GroupCommit
from betcore_async.sqlite.rows import Row
from betcore_async.stores import SQLiteLedger
from betcore_async.stores.commands import (
    CancelBet,
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

TESTS = Path(__file__).parents[1]
PPM = 1_500_000
TODAY = NOON + WEEK


@dataclass
class Scene:
    """Two users and six open bets of theirs in one cell, three of them carried over from the week before."""

    folder: Path
    users: list
    bets: list
    ids: list
    """Not used yet."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")

    async def build():
        async with open_books(folder) as books:
            users = [(await books.users.create(f"0x{number}", 1_000)).id for number in range(2)]
            bets = [(await books.bets.place(user, CELL, 10, 1.5)).id for user in (*users, users[0])]
            await books.next_week()
            bets += [(await books.bets.place(user, CELL, 10, 1.5)).id for user in (*users, users[1])]
            return Scene(folder, users, bets, [books.engine.new_id() for _ in range(3)])

    return asyncio.run(build())


def a_bet(scene, number, amount=5):
    return PlaceBet(scene.ids[number], scene.users[number % 2], "another", amount, PPM)


COMMANDS = {
    "create": lambda scene: CreateUser(scene.ids[0], "0xnew", 5),
    "deposit": lambda scene: Deposit(scene.ids[0], scene.users[0], 5),
    "withdraw": lambda scene: Withdraw(scene.ids[0], scene.users[0], 5),
    "transfer": lambda scene: Transfer(scene.ids[0], *scene.users, 5),
    "place": lambda scene: a_bet(scene, 0),
    "place unfunded": lambda scene: a_bet(scene, 0, 10**9),
    "place many": lambda scene: PlaceBets((a_bet(scene, 0), a_bet(scene, 1, 10**9), a_bet(scene, 2))),
    "confirm": lambda scene: ConfirmBet(scene.bets[0]),
    "win": lambda scene: SettleBet(scene.bets[0], won=True),
    "lose": lambda scene: SettleBet(scene.bets[0], won=False),
    "cancel": lambda scene: CancelBet(scene.bets[0]),
    "settle chunk as won": lambda _: SettleChunk(CELL, True, 1, 4),
    "settle chunk as lost": lambda _: SettleChunk(CELL, False, 1, 4),
}
OF_ONE_ROW = {"place unfunded", "confirm", "lose"}
WITHOUT_ENTRIES = {*OF_ONE_ROW, "settle chunk as lost"}


def told(outcome):
    """An outcome without what is made up anew when it was undone: the ids of entries."""
    if isinstance(outcome, tuple):
        return [told(one) for one in outcome]
    return outcome.model_copy(update={"id": ""}) if isinstance(outcome, LedgerEntry) else outcome


async def state_of(books, scene):
    users = [await books.engine.user(id_) for id_ in (*scene.users, scene.ids[0])]
    entries = [await books.ledger.entries(user.id, limit=None) for user in users if user]
    bets = [(await books.bets.history(user.id, limit=100)).bets for user in users if user]
    counts = {name: number for name, number in (await books.ledger.audit()).counts.items() if name != "chain_links"}
    return users, told(tuple(map(tuple, entries))), bets, counts


@dataclass
class Executed:
    """A command that was executed, with all that an onlooker could see before and after it."""

    scene: Scene
    command: object
    outcome: object
    states: tuple
    crash: Crash

    async def complaint(self, folder, happened=None):
        """What is wrong with the books in `folder`, which a crash left; None when nothing is.

        Nothing is wrong where all of the command is there or nothing (with `happened`: which of them), and a repeat
        makes it whole, once.
        """
        async with open_books(folder, ManualClock(TODAY)) as books:
            report = await books.ledger.audit()
            if not report.ok:
                return f"audit: {report.violations[0]}"
            if await state_of(books, self.scene) not in (self.states if happened is None else [self.states[happened]]):
                return "it is not what it was before or after"
            again = await books.engine.execute(self.command)
            if told(again) != told(self.outcome):
                return "a repeat has another outcome"
            if await state_of(books, self.scene) != self.states[1]:
                return "a repeat does not make it whole"
            return None if (await books.ledger.audit()).ok else "a repeat breaks the books"


async def executed(scene, folder, command, engine_over=None):
    """Execute a command on a copy of the scene, with an engine of another kind if one is given."""
    shutil.copytree(scene.folder, folder)
    path = path_of(folder, "2026-W48")
    async with open_books(folder, ManualClock(TODAY)) as books:
        before, old, contents = await state_of(books, scene), log_of(path), path.read_bytes()
        engine = books.engine if engine_over is None else engine_over(books, path)
        outcome = await engine.execute(command)
        crash = Crash.while_written(path, old, folder.with_name("copies"))
        assert path.read_bytes() == contents  # the log alone tells what is there
    left = folder.with_name("whole")
    crash.leave(left, len(crash.after))
    if engine_over is not None:
        link(left)
    async with open_books(left, ManualClock(TODAY)) as books:
        after = await state_of(books, scene)
    assert before != after
    return Executed(scene, command, outcome, (before, after), crash)


@pytest.mark.parametrize("name", COMMANDS)
async def test_killed_at_any_byte_of_its_commit_a_command_has_happened_whole_or_not_at_all(scene, tmp_path, name):
    done = await executed(scene, tmp_path / "live", COMMANDS[name](scene))
    assert done.crash.commits == [len(done.crash.after)]
    cuts = done.crash.cuts
    for cut in {*cuts[:: len(cuts) // 4 + 1], *cuts[-2:]}:
        left = tmp_path / str(cut)
        done.crash.leave(left, cut)
        assert await done.complaint(left, happened=cut == cuts[-1]) is None, cut


# A commit of which nobody can say whether it took place


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("name", COMMANDS)
async def test_a_command_whose_commit_is_unknown_is_repeated_to_find_out(scene, tmp_path, monkeypatch, name, committed):
    shutil.copytree(scene.folder, tmp_path / "live")
    commit = GroupCommit.commit

    def unknown(group):
        if committed:
            commit(group)
        raise CommitOutcomeUnknownError("fsync failed")

    async with open_books(tmp_path / "live", ManualClock(TODAY)) as books:
        command, before = COMMANDS[name](scene), await state_of(books, scene)
        with monkeypatch.context() as patch:
            patch.setattr(GroupCommit, "commit", unknown)
            with pytest.raises(CommitOutcomeUnknownError):
                await books.engine.execute(command)
        assert (await state_of(books, scene) != before) is committed
        outcome = await books.engine.execute(command)
        after = await state_of(books, scene)
        assert after != before
        again = await books.engine.execute(command)
        assert again == outcome
        assert is_replay(outcome) is committed
        assert is_replay(again)
        assert await state_of(books, scene) == after
        await books.assert_audit_is_clean()


def test_a_disk_that_fails_at_any_page_of_a_commit_leaves_none_of_it(scene, tmp_path):
    """A limit to the size of files makes the write of the log fail with an I/O error, as a dying disk does."""
    shutil.copytree(scene.folder, tmp_path / "live")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    command = [sys.executable, str(TESTS / "reliability" / "disk_worker.py"), str(tmp_path / "live"), *scene.users]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["unknown"] >= 5
    assert found["half"] == []


# Engines that are less. The same checks have to find it, wherever they die.


class StatementByStatement:
    """PartitionManager that commits each statement of a command on its own."""

    def __init__(self, partitions, path):
        self._partitions, self._path = partitions, path

    def __getattr__(self, name):
        return getattr(self._partitions, name)

    async def write(self, function, **_):
        with contextlib.closing(open_raw(self._path, readonly=False)) as raw:
            raw.row_factory = Row
            result = function(raw, to_microseconds(TODAY))
            chain.extend(raw)
        return result


class BetByBet:
    """An engine that commits each bet of a batch on its own."""

    def __init__(self, engine):
        self._engine = engine

    async def execute(self, command):
        return tuple([await self._engine.execute(bet) for bet in command.bets])


def statement_by_statement(books, path):
    return SQLiteLedger(StatementByStatement(books.partitions, path), ManualClock(TODAY))


def bet_by_bet(books, _):
    return BetByBet(books.engine)


def link(folder):
    """Write the link of the chain that is missing: it is the commands that are on trial, and not what binds them."""
    with contextlib.closing(open_raw(path_of(folder, "2026-W48"), readonly=False)) as raw:
        chain.extend(raw)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in OF_ONE_ROW])
async def test_an_engine_that_commits_each_statement_on_its_own_is_caught_wherever_it_dies(scene, tmp_path, name):
    done = await executed(scene, tmp_path / "live", COMMANDS[name](scene), statement_by_statement)
    commits = done.crash.commits if name in WITHOUT_ENTRIES else done.crash.commits[:-1]  # the last one is the link
    complaints = []
    for number, cut in enumerate(commits):
        left = tmp_path / str(number)
        done.crash.leave(left, cut)
        link(left)
        complaints.append(await done.complaint(left))
    assert len(complaints) >= 2
    assert complaints[-1] is None  # nothing was missing any more
    assert all(complaints[:-1]), complaints


async def test_an_engine_that_commits_the_bets_of_a_batch_one_by_one_is_caught_wherever_it_dies(scene, tmp_path):
    done = await executed(scene, tmp_path / "live", COMMANDS["place many"](scene), bet_by_bet)
    *torn, last = done.crash.commits
    assert len(torn) == 2
    for cut in torn:
        done.crash.leave(tmp_path / str(cut), cut)
        assert await done.complaint(tmp_path / str(cut)) == "it is not what it was before or after"
    done.crash.leave(tmp_path / str(last), last)
    assert await done.complaint(tmp_path / str(last)) is None


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_ENTRIES])
async def test_an_engine_that_commits_the_link_of_the_chain_apart_is_caught(scene, tmp_path, name):
    done = await executed(scene, tmp_path / "live", COMMANDS[name](scene), statement_by_statement)
    *_, unlinked, last = done.crash.commits
    done.crash.leave(tmp_path / "unlinked", unlinked)
    assert "chain" in await done.complaint(tmp_path / "unlinked")
    done.crash.leave(tmp_path / "linked", last)
    assert await done.complaint(tmp_path / "linked") is None
