"""Settings: names, defaults, forms, all errors at once, and no secret in any of them."""

import json
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from betcore_async.config import DatabaseSettings, Durability, RedisSettings, Settings, variable_names
from betcore_async.config_docs import options_table
from betcore_async.errors import ConfigError

SECRET = "hunter2-and-a-half"

# What users rely on: a name or default that changes here changes for them.
PROMISED = {
    "LOG_LEVEL": "info",
    "DB_PATH": Path("data/bets.db"),
    "DB_MAX_OPEN_CONNS": 20,
    "DB_MAX_IDLE_CONNS": 5,
    "DB_CONN_MAX_LIFETIME": timedelta(hours=1),
    "DB_BUSY_TIMEOUT": timedelta(seconds=10),
    "REDIS_ADDR": "localhost:6379",
    "REDIS_PASSWORD": None,
    "REDIS_DB": 0,
    "REDIS_POOL_SIZE": 10,
    "REDIS_MIN_IDLE_CONNS": 2,
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def value_of(settings: Settings, variable: str) -> object:
    part, field = variable_names()[variable]
    return getattr(getattr(settings, part), field)


@pytest.mark.parametrize(("variable", "default"), PROMISED.items())
def test_the_promised_variables_have_their_defaults(variable, default):
    assert value_of(Settings(), variable) == default


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("LOG_LEVEL", "debug", "debug"),
        ("DB_PATH", "/srv/bets.db", Path("/srv/bets.db")),
        ("DB_MAX_OPEN_CONNS", "7", 7),
        ("DB_MAX_IDLE_CONNS", "3", 3),
        ("DB_CONN_MAX_LIFETIME", "1h30m", timedelta(minutes=90)),
        ("DB_BUSY_TIMEOUT", "250ms", timedelta(milliseconds=250)),
        ("DB_SYNCHRONOUS", "full", Durability.FULL),
        ("REDIS_ADDR", "unix:/run/redis.sock", "unix:/run/redis.sock"),
        ("REDIS_PASSWORD", SECRET, SecretStr(SECRET)),
        ("REDIS_DB", "3", 3),
        ("REDIS_TLS", "true", True),
        ("REDIS_MIN_IDLE_CONNS", "0", 0),
    ],
)
def test_a_variable_sets_its_field(monkeypatch, variable, text, value):
    monkeypatch.setenv(variable, text)
    assert value_of(Settings(), variable) == value


def test_every_variable_is_read_and_documented():
    table = options_table()
    for variable in variable_names():
        assert f"\n| `{variable}` | " in table
    assert all(not line.endswith("|  |") for line in table.splitlines()), "an option without a meaning"


def test_every_documented_default_reads_back_as_the_default(monkeypatch):
    defaults = Settings()
    for line in options_table().splitlines()[2:]:
        variable, default = (cell.strip().strip("`") for cell in line.split("|")[1:3])
        if default:
            monkeypatch.setenv(variable, default)
    assert Settings() == defaults


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    for variable in variable_names():
        monkeypatch.setenv(variable, "")
    assert Settings() == Settings.model_construct()


def test_a_dotenv_file_is_read_and_the_environment_goes_first(monkeypatch, tmp_path):
    (tmp_path / ".env").write_text(f"DB_MAX_OPEN_CONNS=7\nREDIS_POOL_SIZE=8\nREDIS_PASSWORD={SECRET}\nOTHER_THING=1\n")
    monkeypatch.setenv("REDIS_POOL_SIZE", "9")
    settings = Settings()
    assert (settings.db.max_open_conns, settings.redis.pool_size) == (7, 9)
    assert settings.redis.password == SecretStr(SECRET)


@pytest.mark.parametrize("name", ["REDIS_PASSWORD", "redis_password"])
def test_a_secrets_folder_holds_a_file_per_variable(monkeypatch, tmp_path, name):
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / name).write_text(SECRET)
    monkeypatch.setenv("SECRETS_DIR", str(folder))
    assert Settings().redis.password == SecretStr(SECRET)


def test_a_secrets_folder_that_is_not_there_is_a_config_error(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="SECRETS_DIR") as caught:
        Settings()
    assert caught.value.problems.keys() == {"SECRETS_DIR"}


def test_an_empty_secrets_dir_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("SECRETS_DIR", "")
    assert Settings() == Settings.model_construct()


def test_a_dotenv_file_that_is_not_text_is_a_config_error(tmp_path):
    (tmp_path / ".env").write_bytes(b"REDIS_PASSWORD=\xff\xfe\n")
    with pytest.raises(ConfigError, match=r"\.env"):
        Settings()


@pytest.mark.parametrize("source", ["environment", "dotenv"])
def test_stray_variables_named_like_a_part_are_not_ours(monkeypatch, tmp_path, source):
    stray = {"DB": "/x/y", "REDIS": "redis://elsewhere", "LOG": "{", "redis": "1", "PRICES": "[]"}
    if source == "environment":
        for name, value in stray.items():
            monkeypatch.setenv(name, value)
    else:
        (tmp_path / ".env").write_text("".join(f"{name}='{value}'\n" for name, value in stray.items()))
    assert Settings() == Settings.model_construct()


def test_variables_of_other_programs_are_left_alone(monkeypatch, tmp_path):
    for name in ("REDIS_URL", "DB_HOST", "LOG_FILE", "PARTITIONS_X"):
        monkeypatch.setenv(name, "somebody else's")
    (tmp_path / ".env").write_text("DB_USER=postgres\n")
    monkeypatch.chdir(tmp_path)
    assert Settings() == Settings(_env_file=None)


def test_all_problems_are_told_at_once_by_variable_name(monkeypatch):
    wrong = {
        "LOG_LEVEL": "loud",
        "DB_MAX_OPEN_CONNS": "many",
        "DB_MAX_IDLE_CONNS": "-1",
        "DB_BUSY_TIMEOUT": "10",
        "REDIS_ADDR": "localhost",
        "REDIS_DB": "-1",
        "REDIS_POOL_SIZE": "0",
    }
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert caught.value.problems.keys() == wrong.keys()
    assert all(f"{name}: {text}" in str(caught.value) for name, text in caught.value.problems.items())


def test_a_conflict_between_two_variables_does_not_hide_other_problems(monkeypatch):
    wrong = {"DB_MAX_IDLE_CONNS": "30", "DB_BUSY_TIMEOUT": "soon", "REDIS_MIN_IDLE_CONNS": "11", "REDIS_DB": "x"}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert caught.value.problems.keys() == wrong.keys()
    assert caught.value.problems["DB_MAX_IDLE_CONNS"] == "30 is larger than DB_MAX_OPEN_CONNS (20)"
    assert caught.value.problems["REDIS_MIN_IDLE_CONNS"] == "11 is larger than REDIS_POOL_SIZE (10)"


@pytest.mark.parametrize("value", ["99999999999999999999h", "-1s", "1d", "90"])
def test_an_impossible_duration_is_a_config_error(monkeypatch, value):
    monkeypatch.setenv("DB_BUSY_TIMEOUT", value)
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert caught.value.problems.keys() == {"DB_BUSY_TIMEOUT"}


def test_no_secret_is_shown_by_an_error_its_chain_or_its_traceback(monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", SECRET)
    monkeypatch.setenv("REDIS_DB", "x")
    with pytest.raises(ConfigError) as caught:
        Settings()
    error, shown = caught.value, []
    while error is not None:
        shown += [str(error), repr(error), *traceback.format_exception(error)]
        error = error.__cause__ or error.__context__
    assert SECRET not in "".join(shown)


def test_no_secret_is_shown_by_settings(monkeypatch):
    monkeypatch.setenv("REDIS_PASSWORD", SECRET)
    settings = Settings()
    for shown in (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        str(settings.model_dump()),
        f"{settings.redis}",
    ):
        assert SECRET not in shown
    assert SECRET not in options_table()


def test_json_shows_durations_as_the_environment_takes_them():
    shown = json.loads(Settings().model_dump_json())
    assert (shown["db"]["busy_timeout"], shown["db"]["conn_max_lifetime"]) == ("10s", "1h")


def test_a_part_alone_reads_nothing_from_the_environment(monkeypatch):
    monkeypatch.setenv("DB_MAX_OPEN_CONNS", "7")
    assert DatabaseSettings().max_open_conns == 20


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().db.max_open_conns = 3
    with pytest.raises(ValidationError):
        Settings().db = DatabaseSettings()


def test_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="max_open_conn\n"):
        DatabaseSettings(max_open_conn=3)


@pytest.mark.parametrize(
    ("url", "addr", "db", "user", "tls"),
    [
        ("redis://localhost", "localhost:6379", 0, None, False),
        ("redis://h:7000/3", "h:7000", 3, None, False),
        (f"rediss://u:{SECRET}@h/1", "h:6379", 1, "u", True),
        (f"redis://:{SECRET}@127.0.0.1:6380", "127.0.0.1:6380", 0, None, False),
        ("unix:///tmp/redis.sock", "unix:/tmp/redis.sock", 0, None, False),
        ("redis+sentinel://a,b:1/main", "redis+sentinel://a:26379,b:1/main", 0, None, False),
        (f"rediss+sentinel://u:{SECRET}@[::1]/main/2", "redis+sentinel://[::1]:26379/main", 2, "u", True),
        ("redis+cluster://a:7000,b", "redis+cluster://a:7000,b:6379", 0, None, False),
        (f"rediss+cluster://:{SECRET}@a", "redis+cluster://a:6379", 0, None, True),
    ],
)
def test_a_redis_url_is_read(url, addr, db, user, tls):
    settings = RedisSettings.from_url(url)
    assert (settings.addr, settings.db, settings.username, settings.tls) == (addr, db, user, tls)
    assert settings.password == (SecretStr(SECRET) if SECRET in url else None)


def test_a_password_in_a_redis_url_may_be_quoted():
    assert RedisSettings.from_url("redis://:p%40ss%2F@h").password == SecretStr("p@ss/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://:{SECRET}@h",
        f"redis://:{SECRET}@h:x/0",
        f"redis://:{SECRET}@h/x",
        "redis://",
        "redis://h:99999",
        "unix:",
        f"redis://:{SECRET}@h,h2/0",
        f"redis+sentinel://:{SECRET}@h/",
        f"redis+sentinel://:{SECRET}@h/main/x",
        f"redis+sentinel://h/main?sentinel_pasword={SECRET}",
        f"redis+cluster://:{SECRET}@h/1",
        f"redis+cluster://:{SECRET}@h,",
    ],
)
def test_a_bad_redis_url_is_a_config_error_without_its_password(url):
    with pytest.raises(ConfigError) as caught:
        RedisSettings.from_url(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_login_at_the_sentinels_is_apart_from_that_at_the_servers():
    settings = RedisSettings.from_url(f"redis+sentinel://:a@h/main?sentinel_username=guest&sentinel_password={SECRET}")
    assert (settings.sentinel_username, settings.sentinel_password) == ("guest", SecretStr(SECRET))
    assert SECRET not in repr(settings)


def test_a_password_in_redis_addr_is_refused_and_not_shown(monkeypatch):
    monkeypatch.setenv("REDIS_ADDR", f"redis+sentinel://:{SECRET}@h:26379/main")
    with pytest.raises(ConfigError, match="REDIS_ADDR: takes no user or password") as caught:
        Settings()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
