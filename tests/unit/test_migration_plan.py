"""Which step comes next: pure decisions over what was applied and what is on disk."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betcore_async.errors import MigrationEditedError, MigrationError, SchemaTooNewError
from betcore_async.sqlite.migration_files import NO_TRANSACTION, Migration, Script, Statement
from betcore_async.sqlite.migration_plan import History, HistoryRow, UnfinishedMigration, plan_steps, status_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HEAD = 5


def script(name: str) -> Script:
    statements = tuple(Statement(f"SELECT '{name}', {number};", number) for number in range(3))
    return Script(name, name, statements, frozenset({NO_TRANSACTION}))


MIGRATIONS = tuple(
    Migration(version, f"m{version}", script(f"up{version}"), script(f"down{version}"))
    for version in range(1, HEAD + 1)
)
versions = st.integers(0, HEAD)


def history(version: int, cut: UnfinishedMigration | None = None) -> History:
    return History(tuple(HistoryRow(m.version, m.name, m.checksum, NOON, 0) for m in MIGRATIONS[:version]), cut)


def cut_off(version: int, direction: str, done: int = 1) -> UnfinishedMigration:
    of = MIGRATIONS[min(version, HEAD) - 1]
    text = of.up if direction == "up" else of.down
    return UnfinishedMigration(version, direction, done, text.checksum_of(done), NOON)


@given(versions, versions)
def test_steps_lead_from_the_history_to_the_target_one_version_at_a_time(current, target):
    steps = plan_steps(history(current), MIGRATIONS, target)
    for step in steps:
        assert step.migration.version == (current + 1 if step.direction == "up" else current)
        current += 1 if step.direction == "up" else -1
    assert current == target


@given(versions, versions, st.sampled_from(["up", "down"]))
def test_no_step_goes_against_the_direction_that_was_asked_for(current, target, direction):
    steps = plan_steps(history(current), MIGRATIONS, target, direction)
    wanted = target > current if direction == "up" else target < current
    assert bool(steps) == wanted
    assert {step.direction for step in steps} <= {direction}


@given(versions, versions, st.sampled_from(["up", "down"]))
def test_a_cut_migration_is_finished_first_or_nothing_is_done(current, target, direction):
    version = current + 1 if direction == "up" else current
    if not 1 <= version <= HEAD:
        return
    cut = history(current, cut_off(version, direction))
    if (target >= current) == (direction == "up"):
        steps = plan_steps(cut, MIGRATIONS, target)
        assert [(step.migration.version, step.direction) for step in steps[:1]] == [(version, direction)] * bool(steps)
    else:
        with pytest.raises(MigrationError, match=f"go {direction} to finish it first"):
            plan_steps(cut, MIGRATIONS, target)


def test_cut_migration_of_newer_code_is_too_new():
    with pytest.raises(SchemaTooNewError):
        plan_steps(history(HEAD, cut_off(HEAD + 1, "up")), MIGRATIONS, HEAD)


def test_cut_migration_whose_done_part_was_edited_is_refused():
    cut = UnfinishedMigration(3, "up", 2, MIGRATIONS[0].up.checksum_of(2), NOON)
    with pytest.raises(MigrationEditedError, match="statement 2"):
        plan_steps(history(2, cut), MIGRATIONS, HEAD)


def test_status_reports_a_cut_migration_instead_of_raising():
    status = status_of("a.db", history(3, cut_off(3, "down")), MIGRATIONS)
    assert (status.current, status.unfinished.direction, status.up_to_date) == (3, "down", False)
    assert not status_of("a.db", history(HEAD, cut_off(HEAD, "down")), MIGRATIONS).up_to_date
    assert status_of("a.db", history(HEAD), MIGRATIONS).up_to_date
