"""Killed at any moment, used by several processes at once: the ledger keeps what it acknowledged, exactly once."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from ledger_files import by_hand, open_books, path_of
from reliability.ledger_worker import KINDS, clock_since, told

TESTS = Path(__file__).parents[1]
OPENING = 100_000
USERS = 20


def start_worker(folder, number, seconds, started):
    arguments = [str(folder), str(folder / f"journal-{number}"), str(number), str(seconds), str(started)]
    worker = TESTS / "reliability" / "ledger_worker.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    return subprocess.Popen([sys.executable, str(worker), *arguments], env=environment)


def journal_of(folder, number):
    path = folder / f"journal-{number}"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def until_written(process, folder, number, lines, weeks=1):
    """Wait until the journal of a worker has so many lines, two for each command, and there are so many files."""
    journal, deadline = folder / f"journal-{number}", time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < lines or len(files(folder)) < weeks:
        assert process.poll() is None, "the worker failed"
        assert time.monotonic() < deadline, "the worker does not come on"
        time.sleep(0.005)


def files(folder):
    return list(folder.glob("bets-*.db"))


async def found(folder, started):
    async with open_books(folder, clock_since(started)) as books:
        for number in range(USERS):
            await books.users.create(f"0x{number}", OPENING)


def key(line):
    return line[1], json.dumps(line[2])


def chunks_in(journal):
    """The cells of which a chunk was tried, with their verdict."""
    return {line[2][0]: line[2][1] for line in journal if line[0] == "try" and line[1] == "SettleChunk"}


async def verify(folder, started, journal):
    """Hold the books to a journal: what was acknowledged is there, the rest succeeds when repeated.

    Returns how many commands were acknowledged.
    """
    acknowledged = {key(line): line[3] for line in journal if line[0] == "ack"}
    unfinished = dict.fromkeys(key(line) for line in journal if line[0] == "try" and key(line) not in acknowledged)
    async with open_books(folder, clock_since(started)) as books:
        await books.assert_audit_is_clean()
        before = (await books.ledger.audit()).counts
        # A settled cell is forgotten after a week or two, which pass quickly here.
        lines = [line for line in acknowledged if line[0] != "SettleChunk"]
        commands = [KINDS[kind](*json.loads(terms)) for kind, terms in lines]
        outcomes = await asyncio.gather(*(books.engine.execute(command) for command in commands))
        for line, outcome in zip(lines, outcomes, strict=True):
            assert told(outcome) == acknowledged[line], line
            assert all(one.replayed for one in (outcome if isinstance(outcome, tuple) else [outcome]))
        assert (await books.ledger.audit()).counts == before  # repeats change nothing
        rest = [KINDS[kind](*json.loads(terms)) for kind, terms in unfinished if kind != "SettleChunk"]
        await asyncio.gather(*(books.engine.execute(command) for command in rest))
        await asyncio.gather(*(books.bets.settle_cell(cell, won) for cell, won in chunks_in(journal).items()))
        await books.assert_audit_is_clean()
    return len(acknowledged)


async def assert_totals_are_those_of(folder, started, journal):
    """Nothing is there that no journal tells of, nothing twice: every command in them was executed by now."""
    tried = dict.fromkeys(key(line) for line in journal if line[0] == "try")
    async with open_books(folder, clock_since(started)) as books:
        counts = (await books.ledger.audit()).counts
    tried = [(kind, json.loads(terms)) for kind, terms in tried]
    bets = {terms[0]: terms for kind, terms in tried if kind == "PlaceBet"}
    bets |= {terms[0]: terms for kind, batch in tried if kind == "PlaceBets" for terms in batch}
    cells = chunks_in(journal)
    won = [terms[0] for kind, terms in tried if kind == "SettleBet" and terms[1]]
    won += [bet for bet, terms in bets.items() if cells.get(terms[2])]
    assert counts["opened"] == USERS * OPENING
    assert counts["deposited"] == sum(terms[2] for kind, terms in tried if kind == "Deposit")
    assert counts["withdrawn"] == sum(terms[2] for kind, terms in tried if kind == "Withdraw")
    assert counts["bets"] == len(bets)
    assert counts["staked"] == sum(terms[3] for terms in bets.values())
    assert counts["paid"] == sum(bets[bet][3] * 3 // 2 for bet in won)


def test_killed_at_random_moments_it_keeps_what_it_acknowledged_exactly_once(tmp_path):
    started, journal, in_flight = time.time(), [], 0
    asyncio.run(found(tmp_path, started))
    for number in range(7):
        process = start_worker(tmp_path, number, 60, started)
        try:
            until_written(process, tmp_path, number, random.randint(2, 300))
        finally:
            process.kill()
            process.wait()
        own = journal_of(tmp_path, number)
        in_flight += sum(line[0] == "try" for line in own) - sum(line[0] == "ack" for line in own)
        journal += own
        asyncio.run(verify(tmp_path, started, own))
    asyncio.run(assert_totals_are_those_of(tmp_path, started, journal))
    assert in_flight > 10, "the kills struck nothing in flight"


async def audited(folder, started):
    async with open_books(folder, clock_since(started)) as books:
        await books.assert_audit_is_clean()


def test_several_processes_killed_one_after_the_other_lose_and_double_nothing_over_rotations(tmp_path):
    started = time.time()
    asyncio.run(found(tmp_path, started))
    processes = {number: start_worker(tmp_path, number, 60, started) for number in range(3)}
    try:
        for number in range(3, 5):
            until_written(processes[number - 1], tmp_path, number - 1, random.randint(2, 300))
            struck = random.choice(list(processes))
            process = processes.pop(struck)
            process.kill()
            process.wait()
            processes[number] = start_worker(tmp_path, number, 60, started)
            asyncio.run(audited(tmp_path, started))  # while the others go on
        until_written(processes[4], tmp_path, 4, 400, weeks=2)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    journal = [line for number in range(5) for line in journal_of(tmp_path, number)]
    acknowledged = asyncio.run(verify(tmp_path, started, journal))
    asyncio.run(assert_totals_are_those_of(tmp_path, started, journal))
    assert acknowledged > 150
    assert len(files(tmp_path)) >= 2


async def test_a_file_whose_triggers_are_gone_is_still_audited(tmp_path):
    async with open_books(tmp_path) as books:
        user = await books.users.create("0xabc", 1_000)
    with by_hand(path_of(tmp_path, "2026-W47")) as raw:
        raw.execute("UPDATE users SET balance = balance + 1 WHERE id = ?", (user.id,))
    async with open_books(tmp_path) as books:
        assert not (await books.ledger.audit()).ok
