import pytest

from betcore_async.cli.findings import Finding, Level, file_modes, misspelt_settings, sqlite_library, worst
from betcore_async.config import Settings, variable_names


def misspelt(*names):
    return misspelt_settings(names, variable_names(), Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DB_MAX_OPEN_CONN", "DB_MAX_OPEN_CONNS"),
        ("DB_BUSY_TIMEOUTS", "DB_BUSY_TIMEOUT"),
        ("redis_pol_size", "REDIS_POOL_SIZE"),
        ("LOG_LEVLE", "LOG_LEVEL"),
        ("PRICES_HISTORY_MAXAGE", "PRICES_HISTORY_MAX_AGE"),
    ],
)
def test_a_slip_of_the_pen_in_a_setting_is_told_with_what_was_meant(name, meant):
    (finding,) = misspelt(name)
    assert finding.level is Level.WARNING
    assert name.upper() in finding.text
    assert meant in finding.text


def test_settings_and_names_of_other_programs_are_left_alone():
    (finding,) = misspelt(*variable_names(), "db_path", "DB_HOST", "REDIS_URL", "PATH", "LOGNAME")
    assert finding.level is Level.OK


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 6, 23), Level.OK),
        ((3, 7, 0), Level.WARNING),
        ((3, 40, 1), Level.WARNING),
        ((3, 44, 6), Level.OK),
        ((3, 44, 5), Level.WARNING),
        ((3, 50, 7), Level.OK),
        ((3, 51, 2), Level.WARNING),
        ((3, 51, 3), Level.OK),
        ((3, 52, 0), Level.OK),
    ],
)
def test_versions_with_the_wal_reset_bug_are_told(version, level):
    finding = sqlite_library(version)
    assert finding.level is level
    assert ".".join(map(str, version)) in finding.text


def test_files_open_to_others_are_named_with_their_mode(tmp_path):
    private, public = tmp_path / "private", tmp_path / "public"
    for path, mode in ((private, 0o600), (public, 0o644)):
        path.touch()
        path.chmod(mode)
    assert file_modes([private]).level is Level.OK
    finding = file_modes([private, public])
    assert finding.level is Level.WARNING
    assert f"{public} (0644)" in finding.text
    assert str(private) not in finding.text


def test_the_worst_finding_counts():
    def found(*levels):
        return worst([Finding("check", level, "") for level in levels])

    assert found() is Level.OK
    assert found(Level.OK, Level.WARNING, Level.OK) is Level.WARNING
    assert found(Level.PROBLEM, Level.WARNING) is Level.PROBLEM
