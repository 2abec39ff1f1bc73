"""What `betcore doctor` looks at that needs no running toolkit: pure checks of names, versions and files."""

import difflib
import sqlite3
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Worth knowing; the data is sound."""
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    level: Level
    text: str


_LINKED = (sqlite3.sqlite_version_info[0], sqlite3.sqlite_version_info[1], sqlite3.sqlite_version_info[2])
_LIKENESS = (
    0.8  # of two names, from 0 to 1: finds a dropped letter, leaves REDIS_URL and DB_HOST of other programs alone
)

# https://www.sqlite.org/wal.html, "The WAL-Reset Bug"
_WAL_RESET_BUG = ((3, 7, 0), (3, 51, 2))
_WAL_RESET_FIXED = {(3, 44): 6, (3, 50): 7}  # by branch, the first patch release with the fix


def misspelt_settings(names: Iterable[str], known: Iterable[str], prefixes: Iterable[str]) -> list[Finding]:
    """Tell names of variables that look like settings with a slip of the pen: they would silently have no effect."""
    known, starts = set(known), tuple(f"{prefix}_".upper() for prefix in prefixes)
    findings = []
    for name in sorted({name.upper() for name in names} - known):
        if name.startswith(starts) and (close := difflib.get_close_matches(name, known, n=1, cutoff=_LIKENESS)):
            text = f"{name} is no setting and has no effect; did you mean {close[0]}?"
            findings.append(Finding("settings", Level.WARNING, text))
    return findings or [Finding("settings", Level.OK, "usable, no misspelt names")]


def sqlite_library(version: tuple[int, int, int] = _LINKED) -> Finding:
    """Tell the version of SQLite, and whether it has the bug that can corrupt a file which several processes write."""
    name = ".".join(map(str, version))
    first, last = _WAL_RESET_BUG
    is_patched = version[2] >= _WAL_RESET_FIXED.get(version[:2], version[2] + 1)
    if first <= version <= last and not is_patched:
        text = (
            f"SQLite {name} has the WAL-reset bug (3.7.0 to 3.51.2): in rare cases it corrupts a file that several"
            " processes write; upgrade SQLite or write from one process"
        )
        return Finding("SQLite", Level.WARNING, text)
    return Finding("SQLite", Level.OK, f"SQLite {name}")


def file_modes(paths: Iterable[Path]) -> Finding:
    """Tell files and folders that others than their owner may read or write."""
    open_to_others = []
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            open_to_others.append(f"{path} ({mode:04o})")
    if open_to_others:
        text = f"others than the owner have access to {', '.join(open_to_others)}; take it away with chmod go="
        return Finding("file modes", Level.WARNING, text)
    return Finding("file modes", Level.OK, "for the owner alone")


def worst(findings: Iterable[Finding]) -> Level:
    """Return the most serious level among the findings."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
