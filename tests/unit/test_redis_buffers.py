"""What each policy keeps and tells, against plain models of it."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.redis.buffers import buffer_for
from betcore_async.redis.events import Gap, Message, Reconnected


def message(number, channel="c"):
    return Message(channel, str(number).encode())


def drain(buffer):
    return list(iter(buffer.take, None))


def numbers(events):
    return [int(event.payload) if isinstance(event, Message) else event for event in events]


def test_drop_oldest_tells_the_gap_where_the_oldest_stood():
    buffer = buffer_for("drop_oldest", 3, None)
    assert all(buffer.offer(message(number)) for number in range(5))
    assert numbers(drain(buffer)) == [Gap(2), 2, 3, 4]
    assert buffer.lost == 2


def test_drop_newest_tells_the_gap_where_the_newest_would_stand():
    buffer = buffer_for("drop_newest", 2, None)
    assert all(buffer.offer(message(number)) for number in range(4))
    assert numbers([buffer.take()]) == [0]
    buffer.offer(message(4))
    assert numbers(drain(buffer)) == [1, Gap(2), 4]
    assert buffer.lost == 2


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block", "latest"])
def test_a_gap_of_unknown_length_stays_unknown_when_others_join_it(policy):
    buffer = buffer_for(policy, 1, lambda message: message.payload)
    for lost in (2, 0, 3):
        buffer.note(Gap(lost))
    assert drain(buffer) == [Gap(0)]


def test_what_is_dropped_after_a_gap_of_unknown_length_does_not_make_it_known():
    buffer = buffer_for("drop_oldest", 1, None)
    buffer.note(Gap(0))
    for number in range(2):
        buffer.offer(message(number))
    assert numbers(drain(buffer)) == [Gap(0), 1]


def test_latest_keeps_the_newest_of_each_key_in_the_order_of_the_keys():
    buffer = buffer_for("latest", 2, None)
    for number, channel in enumerate("abaab"):
        buffer.offer(message(number, channel))
    assert drain(buffer) == [Message("a", b"3", skipped=2), Message("b", b"4", skipped=1)]
    assert buffer.lost == 0


def test_latest_tells_a_gap_when_there_are_too_many_keys():
    buffer = buffer_for("latest", 2, lambda message: message.payload)
    for number in range(4):
        buffer.offer(message(number))
    assert numbers(drain(buffer)) == [Gap(2), 2, 3]


@pytest.mark.parametrize("policy", ["block", "disconnect"])
def test_block_and_disconnect_refuse_what_does_not_fit_and_drop_nothing(policy):
    buffer = buffer_for(policy, 2, None)
    assert [buffer.offer(message(number)) for number in range(3)] == [True, True, False]
    assert not buffer.has_room
    assert numbers([buffer.take()]) == [0]
    assert buffer.has_room
    assert buffer.offer(message(3))
    assert numbers(drain(buffer)) == [1, 3]


STEPS = st.lists(st.sampled_from(["offer", "offer", "offer", "take", "back"]), max_size=200)


@given(policy=st.sampled_from(["drop_oldest", "drop_newest"]), maxsize=st.integers(1, 4), steps=STEPS)
def test_every_message_is_either_yielded_in_order_or_counted_in_a_gap_at_its_place(policy, maxsize, steps):
    buffer, offered, taken, notes = buffer_for(policy, maxsize, None), 0, [], 0
    for step in steps:
        if step == "offer":
            buffer.offer(message(offered))
            offered += 1
        elif step == "back":
            buffer.note(Reconnected(1.0))
            notes += 1
        elif (event := buffer.take()) is not None:
            taken.append(event)
    taken += drain(buffer)
    expected = 0
    for event in taken:
        if isinstance(event, Message):
            assert int(event.payload) == expected, "neither lost in silence nor out of order"
            expected += 1
        elif isinstance(event, Gap):
            assert event.lost > 0
            expected += event.lost
    assert expected == offered
    assert buffer.lost == sum(event.lost for event in taken if isinstance(event, Gap))
    assert sum(event.outage for event in taken if isinstance(event, Reconnected)) == notes


@given(policy=st.sampled_from(["drop_oldest", "drop_newest"]), maxsize=st.integers(1, 4), steps=STEPS)
def test_the_memory_of_a_buffer_is_bounded_even_when_nobody_reads(policy, maxsize, steps):
    buffer = buffer_for(policy, maxsize, None)
    for number, step in enumerate(steps):
        if step == "back":
            buffer.note(Reconnected(1.0))
        else:
            buffer.offer(message(number))
        assert len(buffer._events) <= 4 * maxsize + 3


@given(steps=st.lists(st.one_of(st.sampled_from("abc"), st.none()), max_size=100))
def test_latest_agrees_with_a_model(steps):
    """None takes; a letter offers to that channel. Three keys fit, so that nothing is ever lost."""
    buffer, model = buffer_for("latest", 3, None), deque()
    for number, channel in enumerate(steps):
        if channel is None:
            event = buffer.take()
            expected = model.popleft() if model else None
            assert (event and (event.channel, int(event.payload), event.skipped)) == expected
            continue
        buffer.offer(message(number, channel))
        at = next((index for index, entry in enumerate(model) if entry[0] == channel), None)
        if at is None:
            model.append((channel, number, 0))
        else:
            model[at] = (channel, number, model[at][2] + 1)
