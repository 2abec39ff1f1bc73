"""Settings: the only reader of the environment.

Each part is a plain model with defaults, usable on its own (`DatabaseSettings()` reads nothing). `Settings()` fills
all parts from environment variables (`DB_PATH`, `REDIS_POOL_SIZE`, …), a `.env` file in the working directory and,
where `SECRETS_DIR` names one, a folder with a file per variable.
"""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from betcore_async.addresses import Place, read_url
from betcore_async.durations import Duration, parse_duration
from betcore_async.errors import ConfigError


class _Part(BaseModel):
    # hide_input_in_errors: a ValidationError would otherwise print the password it refuses.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


def _at_most(value: int, info: ValidationInfo, field: str, variable: str) -> int:
    """Return `value` if it is no larger than the value of `field`, which stands before it."""
    # Per field, because a validator of the whole part does not run when another field is wrong: the user would not
    # be told every problem at once.
    limit = info.data.get(field, value)  # missing when it is wrong itself
    if value > limit:
        raise ValueError(f"{value} is larger than {variable} ({limit})")
    return value


class Durability(StrEnum):
    """What a COMMIT waits for (SQLite's `synchronous`)."""

    NORMAL = "normal"
    """Survives a crash of the process; a power cut may take the last commits back, never corrupts."""
    FULL = "full"
    """Survives a power cut: the WAL is synced to disk on every commit."""


class LogSettings(_Part):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="Least severe level that is written"
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`json` lines, `console` for people, `auto` = console on a terminal"
    )


class DatabaseSettings(_Part):
    """Where the weekly files are, and how a pool treats one of them."""

    path: Path = Field(
        default=Path("data/bets.db"),
        description="Names the family of weekly files: `data/bets.db` gives `data/bets-2026-W47.db`",
    )
    max_open_conns: int = Field(
        default=20, ge=2, le=1000, description="Most connections to one file: one writer, the rest readers"
    )
    max_idle_conns: int = Field(default=5, ge=0, le=1000, description="Readers kept open while idle")
    conn_max_lifetime: Duration = Field(
        default=parse_duration("1h"), description="A reader older than this is replaced (with jitter)"
    )
    busy_timeout: Duration = Field(
        default=parse_duration("10s"), description="How long to wait for a lock that another process holds"
    )
    acquire_timeout: Duration = Field(
        default=parse_duration("30s"), description="How long a caller waits for its turn on a connection"
    )
    max_waiters: int = Field(
        default=10_000, ge=1, description="Most callers that may wait at one time; one more is refused"
    )
    synchronous: Durability = Field(
        default=Durability.NORMAL, description="`full` also survives a power cut, at the price of a disk sync per group"
    )
    group_max_writes: int = Field(default=512, ge=1, le=100_000, description="Most write functions in one group commit")
    group_max_time: Duration = Field(
        default=parse_duration("50ms"), description="No further write function joins a group that has run this long"
    )
    write_timeout: Duration = Field(
        default=parse_duration("10s"), description="A write function that runs longer is stopped and undone, alone"
    )
    cached_statements: int = Field(default=256, ge=0, le=10_000, description="Prepared statements kept per connection")
    migrations: Path | None = Field(
        default=None, description="Folder of `NNNN_name.up.sql` files to use in place of those shipped with the library"
    )

    @field_validator("max_idle_conns")
    @classmethod
    def _idle_fits_open(cls, value: int, info: ValidationInfo) -> int:
        return _at_most(value, info, "max_open_conns", "DB_MAX_OPEN_CONNS")


_ADDR = "`host:port`, `unix:/path/to.sock`, `redis+sentinel://host:port,…/master` or `redis+cluster://host:port,…`"


class RedisSettings(_Part):
    """Where Redis is, and how long its answers may take."""

    addr: str = Field(default="localhost:6379", description=_ADDR)
    username: str | None = Field(default=None, description="ACL user; none = the default user")
    password: SecretStr | None = Field(default=None, description="Password; never logged or shown")
    db: int = Field(default=0, ge=0, description="Database number")
    tls: bool = Field(default=False, description="Talk TLS to the server, and to Sentinels")
    sentinel_username: str | None = Field(default=None, description="ACL user at the Sentinels")
    sentinel_password: SecretStr | None = Field(
        default=None, description="Password of the Sentinels, where they have one; never logged or shown"
    )
    pool_size: int = Field(
        default=10, ge=1, le=10_000, description="Most connections (to each master of a cluster); callers wait for one"
    )
    min_idle_conns: int = Field(default=2, ge=0, le=10_000, description="Connections opened at start")
    connect_timeout: Duration = Field(default=parse_duration("2s"), description="Deadline for opening a connection")
    timeout: Duration = Field(default=parse_duration("3s"), description="Deadline for one command, waiting included")

    @field_validator("addr")
    @classmethod
    def _addr_names_a_place(cls, value: str) -> str:
        Place.parse(value)
        return value

    @field_validator("db")
    @classmethod
    def _a_cluster_has_one_database(cls, value: int, info: ValidationInfo) -> int:
        if value and str(info.data.get("addr", "")).startswith("redis+cluster:"):
            raise ValueError("must be 0: a cluster has no other database")
        return value

    @field_validator("min_idle_conns")
    @classmethod
    def _idle_fits_pool(cls, value: int, info: ValidationInfo) -> int:
        return _at_most(value, info, "pool_size", "REDIS_POOL_SIZE")

    @classmethod
    def from_url(cls, url: str, **others: Any) -> "RedisSettings":
        """Return the settings that a URL names; a password in it is read as part of a URL, with `%2F` for `/`.

        - `redis://[[user]:password@]host[:port][/db]`, `rediss://…` with TLS, or `unix:///path`;
        - `redis+sentinel://[[user]:password@]host[:port][,…]/master[/db]`, where the hosts are Sentinels and the login
          is for the servers; `?sentinel_username=…&sentinel_password=…` is for the Sentinels;
        - `redis+cluster://[[user]:password@]host[:port][,…]`, some nodes of a cluster;
        - the last two with TLS as `rediss+sentinel://…` and `rediss+cluster://…`.

        Raises ConfigError for any other form; the text of the error leaves the passwords out.
        """
        try:
            return cls.model_validate(read_url(url) | others)
        except ValueError:
            raise ConfigError(
                "the Redis URL cannot be read; write redis://host:port/0, rediss://…, unix:///path/to.sock,"
                " redis+sentinel://host:port,host:port/master/0 or redis+cluster://host:port,host:port",
                problems={},
            ) from None

    @property
    def place(self) -> Place:
        """What `addr` names."""
        return Place.parse(self.addr)


class PriceSettings(_Part):
    """How long and how many prices are kept in Redis, and under which keys."""

    key_prefix: str = Field(
        default="prices", min_length=1, max_length=64, description="First part of every key and channel"
    )
    latest_ttl: Duration = Field(
        default=parse_duration("1h"), description="A latest price not renewed this long disappears"
    )
    history_max_age: Duration = Field(
        default=parse_duration("168h"), description="Points this much older than the newest are pruned"
    )
    history_max_points: int = Field(default=100_000, ge=1, description="Most points kept per symbol")
    max_ahead: Duration = Field(
        default=parse_duration("1m"), description="A tick further in the future than this is refused"
    )


class PartitionSettings(_Part):
    """How the weekly files are opened, rotated and archived."""

    migrate_on_open: bool = Field(default=True, description="Bring every weekly file to the newest schema at start")
    auto_rotate: bool = Field(
        default=True, description="Betcore moves on to a new weekly file by itself when the week is over"
    )
    max_clock_ahead: Duration = Field(
        default=parse_duration("8784h"),
        description="A rotation that would skip further ahead than this (a wrong clock) is refused",
    )
    archive_url: str | None = Field(
        default=None,
        description="Where archived weeks go: a folder, `s3://bucket/prefix`, `gs://…` or `az://…`; "
        "none = a folder beside the files, `data/bets.db-archive`",
    )
    keep_weeks: int | None = Field(
        default=None,
        ge=1,
        description="Weeks before the live one that stay when old weeks are archived; none = all of them",
    )
    restore_on_demand: bool = Field(
        default=False,
        description="Restore the archived weeks that a query reaches, instead of raising `PartitionArchivedError`",
    )

    @field_validator("archive_url")
    @classmethod
    def _archive_url_names_a_place(cls, value: str | None) -> str | None:
        if value is None or "://" not in value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in {"file", "s3", "gs", "az"} or not (parts.netloc or parts.path.strip("/")):
            raise ValueError("must be a folder, file:///folder, s3://bucket/prefix, gs://… or az://…")
        if "@" in parts.netloc or parts.query or parts.fragment:
            # Locations are shown in errors and records.
            raise ValueError("must not hold credentials; they belong into AWS_…, GOOGLE_… or AZURE_… variables")
        return value


class EventSettings(_Part):
    """Whether what happens to bets and balances is told to subscribers."""

    enabled: bool = Field(
        default=False,
        description="Publish events to `events:user:{id}`, in this process or in another one that has it on",
    )


class Settings(BaseSettings):
    """All settings, read from the environment when made. Raises ConfigError with every problem at once."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    log: LogSettings = LogSettings()
    db: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    prices: PriceSettings = PriceSettings()
    partitions: PartitionSettings = PartitionSettings()
    events: EventSettings = EventSettings()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explained(error) from None
        except UnicodeDecodeError as error:
            raise _unusable({".env": f"not UTF-8 text: {error.reason} at byte {error.start}"}) from None
        except SettingsError as error:
            raise _unusable({"SECRETS_DIR": str(error)}) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Only names that are ours: a stray REDIS=url would be taken for a whole part, and the REDIS_URL or DB_HOST of
        # another program for a setting that does not exist. `betcore doctor` tells names that look like a slip.
        ours = {name.lower() for name in variable_names()}
        for source in (env_settings, dotenv_settings):
            names: Mapping[str, str | None] = getattr(source, "env_vars", {})
            source.env_vars = {name: value for name, value in names.items() if name.lower() in ours}  # type: ignore[attr-defined]
        secrets = os.environ.get("SECRETS_DIR")
        if secrets is None:
            return init_settings, env_settings, dotenv_settings
        folder = NestedSecretsSettingsSource(
            file_secret_settings, secrets_dir=secrets, secrets_nested_delimiter="_", secrets_dir_missing="error"
        )
        return init_settings, env_settings, dotenv_settings, folder


def variable_names() -> dict[str, tuple[str, str]]:
    """Return each environment variable the settings know, with its part and field."""
    return {
        f"{part}_{field}".upper(): (part, field)
        for part, info in Settings.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        for field in info.annotation.model_fields
    }


def _explained(error: ValidationError) -> ConfigError:
    problems = {}
    for problem in error.errors(include_url=False, include_input=False):
        name = "_".join(str(part) for part in problem["loc"][:2]).upper() or "settings"
        problems[name] = problem["msg"].removeprefix("Value error, ")
    return _unusable(problems)


def _unusable(problems: dict[str, str]) -> ConfigError:
    lines = "; ".join(f"{name}: {text}" for name, text in problems.items())
    return ConfigError(f"unusable settings: {lines}", problems=problems)
