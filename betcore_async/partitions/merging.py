"""How the answers of several groups of weeks become one, for SQL of the user's own over more than ten files. Pure.

Two kinds of SELECT can be put together from the answers of its parts: rows, which are put one after the other or merged
by their ORDER BY; and counts, sums, least, greatest and mean values, with or without GROUP BY, which are made of those
of the parts. Everything else is refused: where it is not certain that the answer is right, there is none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from betcore_async.models import Bet, User
from betcore_async.partitions.own_select import AGGREGATES, SCALARS, TYPES, Item, Select, is_column, refuse, select_of
from betcore_async.partitions.sql_text import Tokens, parted, same

ENTRY_COLUMNS = "id, user_id, version, amount, balance_after, ref_type, ref_id, metadata, created_at"
_COLUMNS = frozenset(f"{Bet.COLUMNS}, {User.COLUMNS}, {ENTRY_COLUMNS}".split(", "))

_MERGED_BY = {"count": "sum", "sum": "sum", "total": "total", "min": "min", "max": "max"}


@dataclass(frozen=True, slots=True)
class Merge:
    """What is asked of each group of weeks, and what of all their answers, which then stand in `temp.parts`."""

    partial: str
    columns: tuple[str, ...]
    """What the answer's columns are of those of `parts` (c0, c1 …); empty: all but the last `hidden`, as they come."""
    names: tuple[str, ...]
    hidden: int
    """How many columns were added to the rows, by which they are ordered."""
    keys: int
    """How many of the first columns of `parts` the answer is grouped by."""
    grouped: bool
    """Whether the answer is made of aggregates."""
    order: tuple[tuple[int | str, str], ...]
    """Columns (from 0, or by name), each with its direction."""
    limit: str
    """As it is written; empty for none."""
    positional: int
    """How many `?` there are in `partial`."""


@dataclass(slots=True)
class _Parts:
    """Columns of a partial answer."""

    keys: list[str] = field(default_factory=list)
    aggregates: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Call:
    """Where an aggregate is called, in tokens."""

    start: int
    closed: int
    """After its arguments."""
    end: int
    """After its FILTER."""


def merge_of(sql: str) -> Merge:
    """Return how a SELECT is asked group by group. Raises PartitionError for one that cannot be."""
    select = select_of(sql)
    if "GROUP" in select.clauses or any(True for item in select.items for _ in _calls(item.expression)):
        return _of_aggregates(select)
    return _of_rows(select)


def limit_of(merge: Merge, parameters: Sequence[Any] | Mapping[str, Any]) -> int | None:
    """Return the number of rows that are wanted; None for all. Raises PartitionError for what is not a number."""
    if not merge.limit:
        return None
    value: Any = merge.limit
    if merge.limit == "?" and not isinstance(parameters, Mapping):
        value = parameters[-1] if parameters else None
    elif merge.limit[0] in ":@$" and isinstance(parameters, Mapping):
        value = parameters.get(merge.limit[1:])
    elif merge.limit.isdecimal():
        value = int(merge.limit)
    if type(value) is not int:
        refuse(f"LIMIT {merge.limit} where that is not a whole number")
    return value if value >= 0 else None


# Rows


def _of_rows(select: Select) -> Merge:
    aliases = {item.alias.casefold() for item in select.items if item.alias}
    order: list[tuple[int | str, str]] = []
    hidden: list[str] = []
    for base, direction in select.order():
        if len(base) == 1 and base[0].text.isdecimal():
            order.append((int(base[0].text) - 1, direction))
        elif len(base) == 1 and base[0].is_name and base[0].key in aliases:
            order.append((base[0].key, direction))
        elif is_column(base):
            hidden.append(f'{select.text(base)} AS "hidden {len(hidden)}"')
            order.append((f"hidden {len(hidden) - 1}", direction))
        else:
            refuse(f"ORDER BY {select.text(base)} (order by a column, a number, or the name of an output)")
    partial = f"SELECT {', '.join((select.text(select.clauses['SELECT']), *hidden))} {select.source()}"
    if select.limit:
        by = f" ORDER BY {select.text(select.clauses['ORDER'])}" if order else ""
        partial += f"{by} LIMIT {select.limit}"
    return Merge(partial, (), (), len(hidden), 0, False, tuple(order), select.limit, select.marks(*select.clauses))


# Aggregates


def _of_aggregates(select: Select) -> Merge:
    if select.marks("SELECT", "GROUP", "ORDER"):
        refuse("a ? outside WHERE and LIMIT (use :name)")
    terms = parted(select.clauses["GROUP"]) if "GROUP" in select.clauses else ()
    groups = [_group(select.items, term) for term in terms]
    parts = _Parts([select.text(group) for group in groups])
    columns = tuple(_merged(select, item, groups, parts) for item in select.items)
    order = tuple((_output(select, base), direction) for base, direction in select.order())
    partial = f"SELECT {', '.join((*parts.keys, *parts.aggregates))} {select.source()}"
    if groups:
        partial += f" GROUP BY {', '.join(str(number + 1) for number in range(len(groups)))}"
    names = tuple(item.name for item in select.items)
    return Merge(partial, columns, names, 0, len(groups), True, order, select.limit, select.marks("FROM", "WHERE"))


def _group(items: Sequence[Item], term: Tokens) -> Tokens:
    """Return the expression that a term of GROUP BY stands for."""
    if not term:
        refuse("an empty GROUP BY")
    if len(term) == 1 and term[0].text.isdecimal() and 0 < int(term[0].text) <= len(items):
        return items[int(term[0].text) - 1].expression
    if len(term) == 1 and term[0].is_name:
        item = next((item for item in items if item.alias.casefold() == term[0].key), None)
        if item is None or (is_column(item.expression) and item.expression[-1].key == term[0].key):
            return term if item is None else item.expression
        if term[0].key in _COLUMNS:  # SQLite takes the column, and who wrote it may have meant the other
            refuse(f"GROUP BY {term[0].text}, the name of a column and of something else")
        return item.expression
    if len(term) == 1:
        refuse(f"GROUP BY {term[0].text}")
    return term


def _output(select: Select, base: Tokens) -> int:
    """Return the number of the column that a term of ORDER BY means: of that name first, as SQLite has it."""
    items = select.items
    if len(base) == 1 and base[0].text.isdecimal() and 0 < int(base[0].text) <= len(items):
        return int(base[0].text) - 1
    named = base[0].key if len(base) == 1 and base[0].is_name else None
    by_name = (number for number, item in enumerate(items) if item.alias and item.alias.casefold() == named)
    by_text = (number for number, item in enumerate(items) if same(base, item.expression))
    found = next(chain(by_name, by_text), None)
    return refuse(f"ORDER BY {select.text(base)}, which is not one of the columns") if found is None else found


def _merged(select: Select, item: Item, groups: Sequence[Tokens], parts: _Parts) -> str:
    """Return what a column is of the columns of the partial answers, and add these to `parts`."""
    for number, group in enumerate(groups):
        if same(item.expression, group):
            return f"c{number}"
    text, position = "", 0
    for call in _calls(item.expression):
        text += _outside(select, item.expression[position : call.start]) + _merged_call(select, item, call, parts)
        position = call.end
    if not position:
        refuse(f"{item.text}, which is neither a count, sum, min, max, avg nor grouped by")
    return text + _outside(select, item.expression[position:])


def _calls(tokens: Tokens) -> Iterator[_Call]:
    """Yield where aggregates are called."""
    index = 0
    while index < len(tokens) - 1:
        token = tokens[index]
        if token.kind == "word" and token.key in AGGREGATES and tokens[index + 1].text == "(":
            closing = _closing(tokens, index + 1)
            arguments = tokens[index + 2 : closing]
            if token.key not in {"min", "max"} or len(list(parted(arguments))) == 1:  # of several: the scalar function
                end = closing + 1
                if end < len(tokens) and tokens[end].word == "FILTER":
                    end = _closing(tokens, end + 1) + 1
                yield _Call(index, closing + 1, end)
                index = end
                continue
        index += 1


def _closing(tokens: Tokens, opening: int) -> int:
    depth = tokens[opening].depth if opening < len(tokens) else 0
    for index in range(opening + 1, len(tokens)):
        if tokens[index].text == ")" and tokens[index].depth == depth:
            return index
    return refuse("a parenthesis that is not closed")


def _merged_call(select: Select, item: Item, call: _Call, parts: _Parts) -> str:
    tokens = item.expression
    function, inside = tokens[call.start].key, select.text(tokens[call.start + 1 : call.closed])
    condition = f" {select.text(tokens[call.closed : call.end])}" if call.closed < call.end else ""
    if function == "avg":
        total, number = (_column(parts, f"{name}{inside}{condition}") for name in ("total", "count"))
        return f"(total({total}) / nullif(sum({number}), 0))"
    return f"{_MERGED_BY[function]}({_column(parts, f'{function}{inside}{condition}')})"


def _column(parts: _Parts, text: str) -> str:
    parts.aggregates.append(text)
    return f"c{len(parts.keys) + len(parts.aggregates) - 1}"


def _outside(select: Select, tokens: Tokens) -> str:
    """Return the text beside an aggregate, which must not speak of rows."""
    for index, token in enumerate(tokens):
        called = index + 1 < len(tokens) and tokens[index + 1].text == "(" and token.key in SCALARS
        if token.kind in {"quoted", "parameter"} or (token.is_name and not called and token.word not in TYPES):
            refuse(f"{token.text} beside an aggregate")
    return f" {select.text(tokens)} " if tokens else ""
