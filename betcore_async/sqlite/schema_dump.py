"""The schema of a database as text, normalised so that equal schemas have equal texts."""

import re
import sqlite3
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from betcore_async.errors import SchemaDriftError
from betcore_async.sqlite.migration_history import BOOKKEEPING

_OBJECTS = r"""
SELECT type, name, sql
FROM sqlite_schema
WHERE sql IS NOT NULL
  AND name NOT LIKE 'sqlite\_%' ESCAPE '\'
  AND name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow')"""
_ORDER = ["table", "view", "index", "trigger"]

_SPACE = r"(?>(?:\s+|--[^\n]*|/\*.*?\*/)+)"  # atomic, lest half a comment match to please what follows
# What a text is made of as far as its layout goes: literals, names in quotes, space beside brackets, space, the rest.
_PIECE = re.compile(
    r"""'[^']*'|(?P<quoted>"[^"]*")|`[^`]*`|\[[^\]]*\]"""
    rf"""|(?P<gap>(?<=\(){_SPACE}|{_SPACE}(?=[,)]))|(?P<space>{_SPACE})|.""",
    re.DOTALL,
)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def dump_schema(connection: sqlite3.Connection) -> str:
    """Return the SQL that makes the schema: tables, views, indexes, triggers, each by name.

    Comments and layout are left out, and so are the quotes that SQLite puts around a name when it renames a table.
    The runner's own tables, SQLite's and those inside virtual tables are no part of it.
    """
    return as_script(schema_objects(connection))


def as_script(objects: Mapping[str, str]) -> str:
    """Return the SQL that makes these objects."""
    return "".join(f"{sql};\n" for sql in objects.values())


def schema_objects(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the SQL of each object by kind and name (`table users`), in the order of the dump."""
    rows = [(kind, name, sql) for kind, name, sql in connection.execute(_OBJECTS) if name not in BOOKKEEPING]
    plain = frozenset(f'"{name}"' for kind, name, _ in rows if kind == "table" and _needs_no_quotes(name))
    rows.sort(key=lambda row: (_ORDER.index(row[0]), row[1]))
    return {f"{kind} {name}": _normalised(sql, plain) for kind, name, sql in rows}


def check_drift(path: Path, wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise SchemaDriftError when the objects that were found are not those that are wanted."""
    missing = sorted(wanted.keys() - found.keys())
    unexpected = sorted(found.keys() - wanted.keys())
    changed = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    if missing or unexpected or changed:
        lists = {"missing": missing, "unexpected": unexpected, "changed": changed}
        texts = "; ".join(f"{word}: {', '.join(names)}" for word, names in lists.items() if names)
        raise SchemaDriftError(
            f"the schema of {path} is not what its migrations make: {texts}", path=str(path), **lists
        )


@lru_cache(maxsize=256)  # most files have the same objects: a start and a rotation look at them again
def _normalised(sql: str, plain: frozenset[str]) -> str:
    def piece(match: re.Match[str]) -> str:
        if match["quoted"] in plain:
            return match[0].strip('"')
        if match["gap"]:
            return ""
        return " " if match["space"] else match[0]

    return _PIECE.sub(piece, sql).strip()


@lru_cache(maxsize=256)
def _needs_no_quotes(name: str) -> bool:
    if not _PLAIN.fullmatch(name):
        return False
    probe = sqlite3.connect(":memory:")
    try:
        probe.execute(f"CREATE TABLE {name} (x)")
    except sqlite3.OperationalError:  # a keyword
        return False
    finally:
        probe.close()
    return True
