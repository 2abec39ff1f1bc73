"""Migration files: found, read, split into statements and refused when they cannot be run safely. Touches no database.

A folder holds `NNNN_name.up.sql` and `NNNN_name.down.sql`. A file's first comment may carry directives:

- `-- betcore: no-transaction`: each statement is a transaction of its own (for VACUUM, or for work in batches);
- `-- betcore: foreign-keys-off`: foreign keys are off while it runs and checked before its COMMIT (table rebuilds).
"""

import hashlib
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from betcore_async.errors import DuplicateMigrationError, MigrationError, MigrationFileError

_FILE_NAME = re.compile(r"(?P<version>[0-9]{4,9})_(?P<name>[A-Za-z0-9][A-Za-z0-9_-]*)\.(?P<direction>up|down)\.sql")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_DIRECTIVE = re.compile(r"^[ \t]*--[ \t]*betcore:[ \t]*(?P<word>.*?)[ \t]*$", re.MULTILINE)
_SPACE_OR_COMMENT = re.compile(r"(?:\s+|--[^\n]*|/\*.*?\*/)+", re.DOTALL)
# What may hide a semicolon, or is one. `''` inside a literal reads as two literals side by side, which is as good.
_SEMICOLON = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|(?P<end>;)""", re.DOTALL)
_KEYWORD = re.compile(r"\w*")
_PRAGMA = re.compile(r"PRAGMA (?:\w+ ?\. ?)?(?P<name>\w+)", re.IGNORECASE)

_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = _PACKAGE / "_migrations"

NO_TRANSACTION = "no-transaction"
FOREIGN_KEYS_OFF = "foreign-keys-off"

_OWN_TRANSACTION = "the runner opens and ends the transaction itself"
_TWO_FILES = "a migration works on one file: a COMMIT over two of them is not atomic in WAL mode"
_REFUSED = {
    "BEGIN": _OWN_TRANSACTION,
    "COMMIT": _OWN_TRANSACTION,
    "END": _OWN_TRANSACTION,
    "ROLLBACK": _OWN_TRANSACTION,
    "SAVEPOINT": _OWN_TRANSACTION,
    "RELEASE": _OWN_TRANSACTION,
    "ATTACH": _TWO_FILES,
    "DETACH": _TWO_FILES,
}
_REFUSED_PRAGMAS = {
    "foreign_keys": f"inside a transaction it silently does nothing; write `-- betcore: {FOREIGN_KEYS_OFF}` on top",
    "journal_mode": "the pool needs the WAL mode it has set",
    "user_version": "the runner keeps the version there",
    "application_id": "the runner keeps the mark of its files there",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL statement and the line of its file on which it begins, from 1."""

    sql: str
    line: int

    @property
    def keyword(self) -> str:
        """The first word, in capitals."""
        match = _KEYWORD.match(self.sql)
        return match[0].upper() if match else ""

    @property
    def pragma(self) -> str | None:
        """The name of the pragma when the statement is one, in small letters."""
        match = _PRAGMA.match(_SPACE_OR_COMMENT.sub(" ", self.sql))
        return match["name"].lower() if match else None


@dataclass(frozen=True, slots=True)
class Script:
    """One direction of one migration."""

    path: str
    text: str
    statements: tuple[Statement, ...]
    directives: frozenset[str]

    @property
    def transaction(self) -> bool:
        """Whether the whole script is one transaction."""
        return NO_TRANSACTION not in self.directives

    @property
    def foreign_keys(self) -> bool:
        """Whether foreign keys stay on while it runs."""
        return FOREIGN_KEYS_OFF not in self.directives

    def checksum_of(self, count: int) -> str:
        """Return the SHA-256 of the first `count` statements."""
        return hashlib.sha256("\0".join(statement.sql for statement in self.statements[:count]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered change of the schema and, where there is one, the way back."""

    version: int
    name: str
    up: Script
    down: Script | None

    @property
    def label(self) -> str:
        return f"{self.version:04d}_{self.name}"

    @property
    def checksum(self) -> str:
        """SHA-256 of both texts with newlines normalised, so that a checkout with CRLF has the same one."""
        return _checksum(self.up, self.down)

    def matches(self, checksum: str) -> bool:
        """Tell whether the texts are those of `checksum`. A `.down.sql` that was added since is no edit."""
        return checksum in {self.checksum, _checksum(self.up, None)}


def _checksum(up: Script, down: Script | None) -> str:
    # NUL cannot be part of a script, so no text can be moved from one file to the other unseen.
    return hashlib.sha256("\0".join([up.text] + ([down.text] if down else [])).encode()).hexdigest()


def shipped_folder() -> Path:
    """Return the folder of this library's own migrations: inside the installed package, or beside it in a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "migrations"


def is_installed(folder: Path) -> bool:
    """Tell whether `folder` is part of the installed package, where nothing of the user's own belongs."""
    return folder.resolve() == _INSTALLED


def load_migrations(folder: Path) -> tuple[Migration, ...]:
    """Return the migrations of `folder` by number. Gaps are left to the plan, which knows what was applied.

    Raises MigrationFileError for a file that cannot be a migration and DuplicateMigrationError for a number used twice.
    """
    by_version: dict[int, dict[str, tuple[str, Path]]] = defaultdict(dict)
    for path in _sql_files(folder):
        version, name, direction = _parse_name(path)
        of_version = by_version[version]
        for other_direction, (other_name, other_path) in of_version.items():
            if other_direction == direction or other_name != name:
                raise DuplicateMigrationError(
                    f"{other_path.name} and {path.name} claim one number; give the later one the next free number",
                    version=version,
                    path=str(path),
                    other=str(other_path),
                )
        of_version[direction] = (name, path)
    if not by_version:
        raise MigrationFileError(f"{folder} holds no migrations (NNNN_name.up.sql)", path=str(folder))
    return tuple(_load(version, by_version[version]) for version in sorted(by_version))


def create_migration(folder: Path, name: str) -> tuple[Path, Path]:
    """Create the empty up and down files of the next number in `folder` and return their paths.

    Until both hold a statement they are refused. Raises MigrationError when the name has other characters than
    letters, digits, `_` and `-`, and MigrationFileError where the folder cannot be written to.
    """
    if not _NAME.fullmatch(name):
        raise MigrationError(f"{name!r} cannot be the name of a migration; use letters, digits, _ and -", name=name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        newest = max((_parse_name(path)[0] for path in _sql_files(folder)), default=0)
        up, down = (folder / f"{newest + 1:04d}_{name}.{direction}.sql" for direction in ("up", "down"))
        for path in (up, down):
            path.touch(exist_ok=False)
    except OSError as exc:
        raise MigrationFileError(f"{folder} cannot be written to: {exc.strerror}", path=str(folder)) from exc
    return up, down


def read_script(path: Path) -> Script:
    """Return the script in `path`, checked. Raises MigrationFileError, with `line` where there is one."""
    text = _read_text(path)
    statements = tuple(_split(path, text))
    if not statements:
        _refuse(path, 1, "holds no statement; a step that does nothing on purpose is written SELECT 1;")
    script = Script(str(path), text, statements, _directives(path, text, statements[0].line))
    for statement in statements:
        _check(path, script, statement)
    return script


def _sql_files(folder: Path) -> list[Path]:
    try:
        # Hidden files are litter of editors and archivers; any other .sql file must be a migration, or a typo hides.
        return sorted(path for path in folder.iterdir() if path.suffix == ".sql" and path.name[0] != ".")
    except OSError as exc:
        raise MigrationFileError(f"{folder} cannot be read: {exc.strerror}", path=str(folder)) from exc


def _parse_name(path: Path) -> tuple[int, str, str]:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None or int(match["version"]) == 0:
        raise MigrationFileError(
            f"{path} is not named NNNN_name.up.sql or NNNN_name.down.sql, with numbers from 0001", path=str(path)
        )
    return int(match["version"]), match["name"], match["direction"]


def _load(version: int, files: dict[str, tuple[str, Path]]) -> Migration:
    if "up" not in files:
        path = files["down"][1]
        raise MigrationFileError(f"{path} has no .up.sql beside it", path=str(path), version=version)
    name, up = files["up"]
    down = read_script(files["down"][1]) if "down" in files else None
    return Migration(version, name, read_script(up), down)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise MigrationFileError(f"{path} cannot be read: {exc.strerror}", path=str(path)) from exc
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise MigrationFileError(
            f"{path} is not UTF-8 (byte {exc.start})", path=str(path), line=content.count(b"\n", 0, exc.start) + 1
        ) from exc
    if "\0" in text:
        _refuse(path, _line(text, text.index("\0")), "contains a NUL character")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split(path: Path, text: str) -> Iterator[Statement]:
    start, line, counted = 0, 1, 0
    for match in _SEMICOLON.finditer(text):
        # SQLite has the last word: inside a trigger's BEGIN … END a semicolon ends nothing.
        if match["end"] and sqlite3.complete_statement(text[start : match.end()]):
            first = _skip_comments(text, start)
            line, counted = line + text.count("\n", counted, first), first
            if first < match.start():  # not a lone semicolon
                yield Statement(text[first : match.end()], line)
            start = match.end()
    rest = _skip_comments(text, start)
    if rest < len(text):
        _refuse(path, _line(text, rest), "the last statement is not finished; end it with a semicolon")


def _skip_comments(text: str, start: int) -> int:
    match = _SPACE_OR_COMMENT.match(text, start)
    return match.end() if match else start


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _directives(path: Path, text: str, first_line: int) -> frozenset[str]:
    found = set()
    for match in _DIRECTIVE.finditer(text):
        word, line = match["word"], _line(text, match.start("word"))
        if word not in {NO_TRANSACTION, FOREIGN_KEYS_OFF}:
            _refuse(path, line, f"unknown directive {word!r}; there are {NO_TRANSACTION} and {FOREIGN_KEYS_OFF}")
        if line >= first_line:
            _refuse(path, line, "directives belong into the first comment, above the first statement")
        found.add(word)
    if len(found) > 1:
        _refuse(path, 1, f"{NO_TRANSACTION} and {FOREIGN_KEYS_OFF} exclude each other: the check needs one transaction")
    return frozenset(found)


def _check(path: Path, script: Script, statement: Statement) -> None:
    keyword = statement.keyword
    if keyword in _REFUSED:
        _refuse(path, statement.line, f"{keyword} is refused: {_REFUSED[keyword]}")
    if keyword == "VACUUM" and script.transaction:
        _refuse(path, statement.line, f"VACUUM cannot run inside a transaction; write `-- betcore: {NO_TRANSACTION}`")
    pragma = statement.pragma if keyword == "PRAGMA" else None
    if pragma in _REFUSED_PRAGMAS:
        _refuse(path, statement.line, f"PRAGMA {pragma} is refused: {_REFUSED_PRAGMAS[pragma]}")


def _refuse(path: Path, line: int, reason: str) -> NoReturn:
    raise MigrationFileError(f"{path}:{line}: {reason}", path=str(path), line=line)
