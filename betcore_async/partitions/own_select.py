"""What a SELECT of the user's own is made of, where its answers over several groups of weeks are put together. Pure.

What is not known to be harmless is refused: a wrong answer would look like a right one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import NoReturn

from betcore_async.errors import PartitionError
from betcore_async.partitions.sql_text import Token, Tokens, clauses_of, parted, text_of, tokens_of

_PARTED = {"bets", "ledger_entries"}
AGGREGATES = {"avg", "count", "max", "min", "sum", "total"}
SCALARS = frozenset(
    {"abs", "cast", "coalesce", "date", "datetime", "format", "hex", "ifnull", "iif", "instr", "json_extract"}
    | {"julianday", "length", "lower", "ltrim", "max", "min", "nullif", "printf", "quote", "replace", "round", "rtrim"}
    | {"sign", "strftime", "substr", "substring", "time", "trim", "typeof", "unixepoch", "upper"}
)
_FUNCTIONS = SCALARS | AGGREGATES
TYPES = {"INTEGER", "REAL", "TEXT", "NUMERIC"}
_MARKS = frozenset("(),.*+-/%<>=!|&~")
_INSTEAD = {
    "WITH": "WITH",
    "UNION": "UNION",
    "INTERSECT": "INTERSECT",
    "EXCEPT": "EXCEPT",
    "DISTINCT": "DISTINCT (GROUP BY gives different values, too)",
    "HAVING": "HAVING (look at the rows you get)",
    "OVER": "a window function",
    "WINDOW": "a window function",
    "OFFSET": "OFFSET (go on after the last row with WHERE)",
    "VALUES": "VALUES",
    "EXISTS": "EXISTS",
    "RIGHT": "RIGHT JOIN",
    "FULL": "FULL JOIN",
}


def refuse(what: str) -> NoReturn:
    raise PartitionError(
        "the range reaches more weekly files than the ten SQLite attaches, and the answers of several groups of them "
        f"cannot be put together with {what}; narrow the range, or simplify the query"
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One column of the SELECT."""

    expression: Tokens
    alias: str
    """Empty for none."""
    text: str

    @property
    def name(self) -> str:
        """What SQLite calls the column."""
        bare = [token for token in self.expression if token.text not in {"(", ")"}]
        if self.alias or not is_column(bare):
            return self.alias or self.text
        return bare[-1].text.strip('"`[]')


@dataclass(frozen=True, slots=True)
class Select:
    """A SELECT from one table that is spread over weeks."""

    sql: str
    clauses: Mapping[str, Tokens]
    items: list[Item]
    limit: str
    """As it is written; empty for none."""

    def text(self, tokens: Tokens) -> str:
        return text_of(self.sql, tokens)

    def source(self) -> str:
        """Return its text from FROM to the end of WHERE."""
        where = f" WHERE {self.text(self.clauses['WHERE'])}" if "WHERE" in self.clauses else ""
        return f"FROM {self.text(self.clauses['FROM'])}{where}"

    def order(self) -> Iterator[tuple[Tokens, str]]:
        """Yield what is ordered by, and the text of how."""
        for part in parted(self.clauses["ORDER"]) if "ORDER" in self.clauses else ():
            words = {"COLLATE", "ASC", "DESC", "NULLS"}
            cut = next((number for number, token in enumerate(part) if token.word in words), len(part))
            if not cut:
                refuse("an empty ORDER BY")
            yield part[:cut], self.text(part[cut:]) if part[cut:] else ""

    def marks(self, *names: str) -> int:
        """Return how many `?` there are in some clauses."""
        return sum(token.text == "?" for name in names for token in self.clauses.get(name, ()))


def select_of(sql: str) -> Select:
    """Return what a statement is made of. Raises PartitionError for one that is not to be put together from parts."""
    tokens = tokens_of(sql)
    _check(tokens)
    clauses = clauses_of(tokens)
    if "FROM" not in clauses:
        refuse("anything but one SELECT … FROM … [WHERE …] [GROUP BY …] [ORDER BY …] [LIMIT …]")
    _check_tables(tokens, clauses["FROM"])
    items = [_item(sql, part) for part in parted(clauses["SELECT"])]
    return Select(sql, clauses, items, _limit(clauses.get("LIMIT", [])))


def _check(tokens: Tokens) -> None:
    in_order = False
    for token, after in zip_longest(tokens, tokens[1:]):
        in_order = in_order or (token.word == "ORDER" and not token.depth)
        if token.word in _INSTEAD:
            refuse(_INSTEAD[token.word])
        if token.word == "SELECT" and token is not tokens[0]:
            refuse("a SELECT inside another")
        if token.word == "COLLATE" and not in_order:
            refuse("COLLATE outside ORDER BY")
        if token.kind == "parameter" and token.text[1:].isdigit():
            refuse(f"{token.text} (use ? or :name)")
        if _is_odd(token) or (after is not None and after.text == "(" and _is_odd_function(token)):
            refuse(token.text)


def _is_odd(token: Token) -> bool:
    if token.kind == "string":  # SQLite takes a string for a table here and there
        return token.key.strip("'") in _PARTED
    if token.is_name:
        return token.key in {"main", "temp"} or token.key.startswith(("sqlite_", "pragma_"))
    return token.kind == "mark" and token.text not in _MARKS


def _is_odd_function(token: Token) -> bool:
    return token.kind in {"quoted", "string"} or (token.is_name and token.key not in _FUNCTIONS)


def _check_tables(tokens: Tokens, source: Tokens) -> None:
    """Insist on one table that is spread over weeks, the first one, joined to users at most."""
    mentions = [
        token
        for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False)
        if token.is_name and token.key in _PARTED and "." not in {before and before.text, after and after.text}
    ]
    if mentions != [source[0]]:
        refuse("anything but one of bets and ledger_entries, named once and first in FROM")
    for before, token in pairwise(tokens):
        if before.word == "IN" and token.is_name:  # a table without SELECT
            refuse(f"IN {token.text}")
    for before, token in pairwise(source):
        if token.depth:
            continue
        if (before.word == "JOIN" or before.text == ",") and token.key != "users":
            refuse(f"a join with {token.text} (users is the one table to join)")


def _item(sql: str, tokens: Tokens) -> Item:
    if len(tokens) > 2 and tokens[-2].word == "AS" and not tokens[-2].depth:
        name = tokens[-1].text
        alias = name[1:-1] if tokens[-1].kind in {"quoted", "string"} else name
        return Item(tokens[:-2], alias, text_of(sql, tokens[:-2]))
    if not tokens:
        refuse("an empty column")
    if len(tokens) > 1 and tokens[-1].is_name:
        before = tokens[-2]
        if before.text == ")" or before.kind not in {"word", "mark"} or before.is_name or before.word == "END":
            refuse(f"the name {tokens[-1].text} without AS before it")
    return Item(tokens, "", text_of(sql, tokens))


def is_column(tokens: Tokens) -> bool:
    """Tell whether this is the name of a column, with or without that of its table."""
    if len(tokens) == 3:
        return tokens[0].is_name and tokens[1].text == "." and tokens[2].is_name
    return len(tokens) == 1 and tokens[0].is_name


def _limit(tokens: Tokens) -> str:
    if not tokens:
        return ""
    if len(tokens) > 1 or tokens[0].kind not in {"number", "parameter"}:
        refuse("a LIMIT that is not one number or parameter")
    return tokens[0].text
