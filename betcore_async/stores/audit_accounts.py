"""The audit of accounts: one walk over users and entries side by side, user by user and version by version.

Both come in the order of an index, so that nothing is sorted and no more than one row of each is held.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from betcore_async.stores.audit_rules import THERE, Found

SUM = "balance == sum of entries"
RUNNING = "balance_after is the running balance"
DENSE = "versions are dense"
OPENED = "each user has one opening, and it comes first"
LAST = "the last entry has the user's version"
FUNDED = "no balance is below zero"
RULES = (SUM, RUNNING, DENSE, OPENED, LAST, FUNDED, THERE)

_USERS = """
SELECT id, balance, version
FROM {schema}.users
ORDER BY id
"""

_ENTRIES = """
SELECT user_id, version, amount, balance_after, ref_type, ref_id, id
FROM {schema}.ledger_entries
ORDER BY user_id, version
"""

_OPENINGS = {"opening", "carry_forward"}


class Accounts:
    """What a walk over the accounts of an attached week comes to."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[str, list[Found]] = {rule: [] for rule in RULES}
        self.users = 0
        self.held = 0
        """What the users have, in minor units."""
        self.entries: Counter[str] = Counter()
        """Number of entries of each kind."""
        self.amounts: Counter[str] = Counter()
        """Their sums, in minor units; integers of Python, which never overflow."""

    @property
    def found(self) -> list[Found]:
        """What is wrong, rule by rule, at most `most` of each."""
        return [found for faults in self._found.values() for found in faults]

    def walk(self, raw: sqlite3.Connection, schema: str) -> None:
        users, entries = (raw.execute(sql.format(schema=schema)) for sql in (_USERS, _ENTRIES))
        users.row_factory = entries.row_factory = None  # plain tuples
        for user, own in _side_by_side(users, entries):
            if user is None:
                entry = next(iter(own))
                self._tell(THERE, "ledger_entries", entry[-1], f"an entry of user {entry[0]}, who is not there")
                self._account(None, chain([entry], own))
            else:
                self._account(user, own)

    def _account(self, user: tuple[Any, ...] | None, own: Iterable[tuple[Any, ...]]) -> None:
        amounts, entries = self.amounts, self.entries
        last = first = None
        balance = total = openings = 0
        opens = False
        for user_id, version, amount, after, kind, ref_id, identifier in own:
            if last is None:
                first = kind
                opens = kind in _OPENINGS and ref_id == user_id and (kind != "opening" or version == 1)
            elif version != last + 1:
                self._tell(DENSE, "ledger_entries", identifier, f"version {version} follows {last}")
            if after != balance + amount:
                told = f"balance_after {after}, running balance {balance + amount}"
                self._tell(RUNNING, "ledger_entries", identifier, told)
            if after < 0:
                self._tell(FUNDED, "ledger_entries", identifier, f"balance_after {after}")
            openings += kind in _OPENINGS
            entries[kind] += 1
            amounts[kind] += amount
            last, balance, total = version, after, total + amount
        if user is not None:
            self._user(user, total, last)
            if openings != 1 or not opens:
                told = f"{openings} openings, the first entry is {first or 'not there'}"
                self._tell(OPENED, "users", user[0], told)

    def _user(self, user: tuple[Any, ...], total: int, last: int | None) -> None:
        identifier, balance, version = user
        self.users += 1
        self.held += balance
        if balance != total:
            self._tell(SUM, "users", identifier, f"balance {balance}, entries sum to {total}")
        if version != last:
            self._tell(LAST, "users", identifier, f"version {version}, last entry {last or 0}")
        if balance < 0:
            self._tell(FUNDED, "users", identifier, f"balance {balance}")

    def _tell(self, rule: str, table: str, subject: str, detail: str) -> None:
        if len(faults := self._found[rule]) < self._most:
            faults.append(Found(rule, table, subject, detail))


def _side_by_side(
    users: Iterator[tuple[Any, ...]], entries: Iterator[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...] | None, Iterable[tuple[Any, ...]]]]:
    """Pair each user with the entries of that user; either may be missing."""
    user = next(users, None)
    for user_id, own in groupby(entries, key=itemgetter(0)):
        while user is not None and user[0] < user_id:
            yield user, ()
            user = next(users, None)
        if user is None or user[0] != user_id:
            yield None, own
        else:
            yield user, own
            user = next(users, None)
    while user is not None:
        yield user, ()
        user = next(users, None)
