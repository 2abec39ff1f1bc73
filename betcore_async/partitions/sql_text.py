"""Cutting one SELECT into its clauses, by tokens. Pure; the pieces are the user's own text, nothing is rewritten.

Only as much of SQL is understood as is needed to tell what is there. What is not understood is refused by whoever asks.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space> [ \t\n\f\r]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<string> [xX]?'(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<number> (?:0[xX][0-9a-fA-F]+ | (?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?) )
    | (?P<parameter> \?[0-9]* | [:@$][A-Za-z0-9_]+ )
    | (?P<word> [A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]* )
    | (?P<mark> . )
    """,
    re.VERBOSE | re.DOTALL,
)

KEYWORDS = frozenset(
    {"ALL", "AND", "AS", "ASC", "BETWEEN", "BY", "CASE", "CAST", "COLLATE", "CROSS", "DESC", "DISTINCT", "ELSE", "END"}
    | {"ESCAPE", "EXCEPT", "EXISTS", "FILTER", "FIRST", "FROM", "FULL", "GLOB", "GROUP", "HAVING", "IN", "INNER"}
    | {"INTERSECT", "IS", "ISNULL", "JOIN", "LAST", "LEFT", "LIKE", "LIMIT", "MATCH", "NATURAL", "NOT", "NOTNULL"}
    | {"NULL", "NULLS", "OFFSET", "ON", "OR", "ORDER", "OUTER", "OVER", "REGEXP", "RIGHT", "SELECT", "THEN", "UNION"}
    | {"USING", "VALUES", "WHEN", "WHERE", "WINDOW", "WITH"}
)
_CLAUSES = ("SELECT", "FROM", "WHERE", "GROUP", "ORDER", "LIMIT")


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    depth: int
    """How many parentheses it stands in."""

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def key(self) -> str:
        """What it says, whatever its case and quotes; a keyword or a function is one without quotes."""
        if self.kind == "quoted":
            return self.text[1:-1].replace(self.text[-1] * 2, self.text[-1]).casefold()
        return self.text.casefold()

    @property
    def word(self) -> str:
        """The keyword it may be, in capitals; empty for what is none."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def is_name(self) -> bool:
        return self.kind == "quoted" or (self.kind == "word" and self.word not in KEYWORDS)


Tokens = Sequence[Token]


def tokens_of(sql: str) -> list[Token]:
    """Return the tokens of a statement, without comments and a last semicolon."""
    found, depth = [], 0
    for match in _TOKEN.finditer(sql):
        kind, text = str(match.lastgroup), match.group()
        if kind != "space":
            depth -= text == ")"
            found.append(Token(kind, text, match.start(), depth))
            depth += text == "("
    return found[:-1] if found and found[-1].text == ";" else found


def clauses_of(tokens: Tokens) -> dict[str, list[Token]]:
    """Return the tokens of each clause, by its first word; nothing for what is not one SELECT of clauses in order."""
    starts = [(index, token.word) for index, token in enumerate(tokens) if not token.depth and token.word in _CLAUSES]
    order = [_CLAUSES.index(word) for _, word in starts]
    if not starts or starts[0] != (0, "SELECT") or order != sorted(set(order)):
        return {}
    ends = [index for index, _ in starts[1:]] + [len(tokens)]
    found = {}
    for (start, word), end in zip(starts, ends, strict=True):
        two = word in {"GROUP", "ORDER"}
        if two and (start + 1 >= end or tokens[start + 1].word != "BY"):
            return {}
        found[word] = list(tokens[start + 1 + two : end])
    return found if all(found.values()) else {}


def parted(tokens: Tokens) -> Iterator[list[Token]]:
    """Yield what stands between the commas."""
    part: list[Token] = []
    depth = tokens[0].depth if tokens else 0
    for token in tokens:
        if token.text == "," and token.depth == depth:
            yield part
            part = []
        else:
            part.append(token)
    yield part


def text_of(sql: str, tokens: Tokens) -> str:
    """Return the text from the first token to the last, as it stands."""
    return sql[tokens[0].start : tokens[-1].end]


def same(one: Tokens, other: Tokens) -> bool:
    """Tell whether two expressions are written alike, but for case and space."""
    return [(token.kind, token.key) for token in one] == [(token.kind, token.key) for token in other]
