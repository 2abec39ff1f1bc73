"""Errors carry their facts wherever they go, and stand in the tree that the documentation draws."""

import copy
import inspect
import pickle
import re

import pytest

from betcore_async import errors
from betcore_async.errors import BetcoreError, BusyTimeoutError, InsufficientFundsError, ModelError

ALL = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, BetcoreError)]


def through_pickle(error):
    return pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("send", [copy.copy, copy.deepcopy, through_pickle])
def test_an_error_survives_copying_and_pickling(kind, send):
    error = send(kind("what went wrong", waited=1.5, weeks=["2026-W47"]))
    assert type(error) is kind
    assert (str(error), error.waited, error.weeks) == ("what went wrong", 1.5, ["2026-W47"])
    assert error.facts == {"waited": 1.5, "weeks": ["2026-W47"]}


def test_a_fact_that_is_not_there_is_an_attribute_error_naming_the_class():
    with pytest.raises(AttributeError, match="'BusyTimeoutError' has no attribute 'week'"):
        _ = BusyTimeoutError("busy", waited=1.0).week
    assert not hasattr(InsufficientFundsError("poor"), "balance")


def test_a_model_error_is_a_value_error():
    assert issubclass(ModelError, ValueError)


def drawn_tree() -> dict[str, str]:
    """Return each class of the docstring's drawing with the class it hangs from."""
    parents, line_of_descent = {}, []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            depth = len(match[1]) // 4
            line_of_descent = [*line_of_descent[:depth], match[2]]
            parents[match[2]] = line_of_descent[-2] if depth else "Exception"
    return parents


def test_the_drawn_tree_is_the_real_one():
    assert drawn_tree() == {kind.__name__: kind.__bases__[0].__name__ for kind in ALL}


def test_every_error_says_what_it_means():
    assert [kind.__name__ for kind in ALL if not (vars(kind).get("__doc__") or "").strip()] == []
