"""A message is a value, whatever was made of it."""

import pytest

from betcore_async.redis import Message


def test_what_was_made_of_a_message_is_no_part_of_its_value():
    one, other = Message("a", b"1"), Message("a", b"1")
    assert one.shared(lambda message: message.payload + b"!") == b"1!"
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other)


def test_each_maker_has_its_own_result_and_one_that_fails_is_asked_again():
    message, calls = Message("a", b"1"), []

    def fails_at_first(message):
        calls.append(message)
        if len(calls) == 1:
            raise LookupError
        return "made"

    assert message.shared(len_of_payload) == 1
    with pytest.raises(LookupError):
        message.shared(fails_at_first)
    assert message.shared(fails_at_first) == message.shared(fails_at_first) == "made"
    assert calls == [message, message]


def len_of_payload(message):
    return len(message.payload)
