"""`betcore doctor`: checks whether everything is sound."""

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from betcore_async.cli.families import PathArgument, with_family
from betcore_async.cli.findings import Finding, Level, file_modes, misspelt_settings, sqlite_library, worst
from betcore_async.cli.output import JsonOption, logs_on_stderr, print_json, print_table

if TYPE_CHECKING:
    from betcore_async.config import DatabaseSettings, RedisSettings, Settings
    from betcore_async.partitions.files import Family

_MOST_VIOLATIONS = 20
_SIGNS = {Level.OK: "ok", Level.WARNING: "warning", Level.PROBLEM: "PROBLEM"}


def doctor(path: PathArgument = None, as_json: JsonOption = False) -> None:
    """Check settings, SQLite, every weekly file, the books, and Redis.

    Status 0 when all is well (warnings allowed), 1 when there is a problem, 2 when there is nothing to look at.
    """
    settings = with_family(_settings(), path)
    with logs_on_stderr(settings):
        findings = asyncio.run(_examine(settings))
    if as_json:
        print_json({"ok": worst(findings) is not Level.PROBLEM, "findings": findings})
    else:
        print_table(("Check", "", ""), [(found.check, _SIGNS[found.level], found.text) for found in findings])
    raise typer.Exit(1 if worst(findings) is Level.PROBLEM else 0)


def _settings() -> "Settings":
    """Return the settings; where they cannot be used, the error also tells which names may be slips of the pen."""
    from betcore_async.config import Settings, variable_names
    from betcore_async.errors import ConfigError

    try:
        return Settings()
    except ConfigError as error:
        slips = misspelt_settings(error.problems, variable_names(), Settings.model_fields)
        hints = "".join(f"; {slip.text}" for slip in slips if slip.level is not Level.OK)
        raise ConfigError(error.message + hints, problems=error.problems) from None


async def _examine(settings: "Settings") -> list[Finding]:
    from betcore_async.config import Settings, variable_names
    from betcore_async.partitions.files import Family

    findings = misspelt_settings(os.environ, variable_names(), Settings.model_fields)
    findings.append(sqlite_library())
    family = Family(settings.db.path)
    if family.folder.is_dir() and family.weekly_files():
        # First what changes nothing; the audit then opens the files as a service does, cleaning up after a crash.
        findings += await asyncio.to_thread(_weekly_files, family, settings.db)
        findings.append(await _books(settings))
    else:
        findings.append(Finding("weekly files", Level.OK, f"none yet at {settings.db.path}"))
    findings.append(await _redis(settings.redis))
    return findings


def _weekly_files(family: "Family", settings: "DatabaseSettings") -> list[Finding]:
    files = family.weekly_files()
    parts = [file for path in files.values() for file in path.parent.glob(f"{path.name}*")]
    findings = [file_modes([family.folder, *parts])]
    bad = [f"{path}: {said}" for path in files.values() if (said := _quick_check(path)) != "ok"]
    findings += [Finding("integrity", Level.PROBLEM, text) for text in bad]
    if not bad:
        findings.append(Finding("integrity", Level.OK, f"{len(files)} weekly files intact"))
    return [*findings, *_chain(family, settings)]


def _quick_check(path: Path) -> str:
    from betcore_async.errors import BetcoreError
    from betcore_async.sqlite.looking import open_to_look

    try:
        raw = open_to_look(path)
        try:
            return "; ".join(str(row[0]) for row in raw.execute("PRAGMA quick_check(5)"))
        finally:
            raw.close()
    except (sqlite3.Error, BetcoreError) as error:
        return str(error)


def _chain(family: "Family", settings: "DatabaseSettings") -> list[Finding]:
    from betcore_async.errors import BetcoreError
    from betcore_async.partitions.catalog import discover
    from betcore_async.sqlite.migrations import Migrator

    head = Migrator(settings=settings).migrations[-1].version
    try:
        found = discover(family, head)
    except BetcoreError as error:
        return [Finding("weeks", Level.PROBLEM, error.message)]
    damaged = [partition for partition in found.partitions.values() if partition.problem]
    findings = [Finding("weeks", Level.PROBLEM, f"{partition.path.name}: {partition.problem}") for partition in damaged]
    archived = sum(p.archived is not None for p in found.partitions.values())  # migrated when they come back
    behind = [p for p in found.partitions.values() if not (p.problem or p.archived) and p.schema_version < head]
    if behind:
        names = ", ".join(f"{partition.path} ({partition.schema_version})" for partition in behind)
        text = f"schema behind version {head}: {names}; run `betcore migrate up`"
        findings.append(Finding("schema", Level.WARNING, text))
    else:
        findings.append(Finding("schema", Level.OK, f"version {head}"))
    if found.orphans:
        text = (
            f"left behind by a rotation that was cut: {', '.join(map(str, found.orphans))}; removed at the next start"
        )
        findings.append(Finding("weeks", Level.WARNING, text))
    if not damaged:
        away = f", {archived} archived" if archived else ""
        findings.append(Finding("weeks", Level.OK, f"an unbroken chain, {found.live} is live{away}"))
    return findings


async def _books(settings: "Settings") -> Finding:
    from betcore_async.errors import BetcoreError
    from betcore_async.partitions import PartitionManager
    from betcore_async.stores import audit

    try:
        async with PartitionManager(settings.db, settings.partitions) as partitions:
            report = await audit.run(partitions)
    except BetcoreError as error:
        return Finding("audit", Level.PROBLEM, error.message)
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in report.counts.items())
    if report.ok:
        return Finding("audit", Level.OK, counts)
    told = [
        f"{found.week} {found.rule} {found.subject}: {found.detail}" for found in report.violations[:_MOST_VIOLATIONS]
    ]
    return Finding("audit", Level.PROBLEM, f"{len(report.violations)} violations: {'; '.join(told)}")


async def _redis(settings: "RedisSettings") -> Finding:
    from betcore_async.errors import RedisError
    from betcore_async.redis import RedisClient

    try:
        async with RedisClient(settings) as client:
            health = await client.health()
    except RedisError as error:
        # Who never named a server may not use one.
        level = Level.PROBLEM if "addr" in settings.model_fields_set else Level.WARNING
        return Finding("Redis", level, error.message)
    return Finding("Redis", Level.OK, f"{health.server} at {settings.addr}")
