"""The waiting line: order, limits, and who may still leave it. No connection, no thread."""

import asyncio
from time import monotonic

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import booleans, data, integers

from betcore_async.errors import TooManyWaitersError
from betcore_async.sqlite.retry import FIRST_DELAY, LONGEST_DELAY, backoff
from betcore_async.sqlite.waiting import Job, Line, State, Turn, settle

LOOP = asyncio.new_event_loop()
LOOP.close()  # futures only need one to belong to


def job() -> Job:
    return Job(lambda _: None, LOOP.create_future())


def _cancelled() -> "asyncio.Future[None]":
    future = LOOP.create_future()
    future.cancel()
    return future


def test_a_started_job_cannot_be_abandoned_and_an_abandoned_one_cannot_start():
    line, first, second = Line(10), job(), job()
    line.append(first)
    line.append(second)
    assert line.take_job() is first
    assert not line.abandon(first)
    assert line.abandon(second)
    assert line.take_job() is None
    assert len(line) == 0


def test_a_turn_at_the_head_holds_the_jobs_behind_it_back():
    line, turn, behind = Line(10), Turn(LOOP.create_future()), job()
    line.append(turn)
    line.append(behind)
    assert line.take_job() is None
    assert line.take_turn() is turn
    assert line.take_turn() is None
    assert line.take_job() is behind


def test_a_full_line_has_room_again_when_somebody_leaves_from_its_middle():
    line, items = Line(3), [job() for _ in range(3)]
    for item in items:
        line.append(item)
    with pytest.raises(TooManyWaitersError):
        line.append(job())
    line.abandon(items[1])
    line.append(job())


def test_those_who_left_do_not_pile_up_behind_a_turn_that_is_held():
    line = Line(10)
    line.append(job())
    for _ in range(1000):
        item = job()
        line.append(item)
        line.abandon(item)
    assert len(line) == 1
    assert len(line._items) < 100


def test_the_patient_are_not_swept_and_do_not_shield_those_behind_them():
    line, patient, impatient, late = Line(10), Turn(LOOP.create_future(), patient=True), job(), job()
    for item in (patient, impatient, late):
        line.append(item)
    late.enqueued_at = monotonic() + 100
    assert line.take_expired(monotonic()) == ([impatient], late.enqueued_at)
    assert len(line) == 2
    assert line.take_all() == [patient, late]
    assert line.abandon(patient)  # told already: not to be waited for


def test_an_answer_nobody_listens_to_is_still_an_answer():
    item, told = job(), job()
    item.future = _cancelled()
    settle(item, 1)
    settle(told, 2)
    assert item.answered
    assert told.future.result() == 2


def test_pauses_grow_and_are_drawn_at_random_up_to_a_ceiling():
    assert all(0 <= backoff(attempt) <= LONGEST_DELAY for attempt in (1, 5, 100, 10_000))
    assert all(backoff(1) <= FIRST_DELAY for _ in range(100))
    assert len({backoff(10) for _ in range(10)}) > 5


class LineMachine(RuleBasedStateMachine):
    """A Line beside a plain list that says what should stand in it."""

    def __init__(self):
        super().__init__()
        self.line, self.model, self.started = Line(20), [], []

    @rule(turn=booleans())
    def append(self, turn):
        item = Turn(LOOP.create_future()) if turn else job()
        if len(self.model) == 20:
            with pytest.raises(TooManyWaitersError):
                self.line.append(item)
        else:
            self.line.append(item)
            self.model.append(item)

    @precondition(lambda self: self.model)
    @rule(data=data())
    def abandon(self, data):
        index = data.draw(integers(0, len(self.model) - 1))
        assert self.line.abandon(self.model.pop(index))

    @rule()
    def take_job(self):
        expected = self.model.pop(0) if self.model and isinstance(self.model[0], Job) else None
        assert self.line.take_job() is expected
        if expected is not None:
            self.started.append(expected)

    @rule()
    def take_turn(self):
        expected = self.model.pop(0) if self.model and isinstance(self.model[0], Turn) else None
        assert self.line.take_turn() is expected

    @rule()
    def put_back(self):
        self.line.put_back(self.started)
        self.model[:0] = self.started
        self.started = []

    @rule()
    def sweep(self):
        assert self.line.take_expired(monotonic())[0] == self.model
        self.model = []

    @invariant()
    def agrees(self):
        assert len(self.line) == len(self.model)
        assert self.line.head() is (self.model[0] if self.model else None)
        assert all(item.state is State.WAITING for item in self.model)


TestLine = LineMachine.TestCase
TestLine.settings = settings(max_examples=60, stateful_step_count=40)
