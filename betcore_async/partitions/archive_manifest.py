"""What the archive says of a week: the manifest beside its object, and the same bytes as a record beside the live file.

The record makes a week `archived`: a start reads it, and needs no network. It can be rebuilt from the manifest.
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, ValidationError

from betcore_async.errors import ArchiveDamagedError
from betcore_async.partitions.files import Family, sync
from betcore_async.partitions.week import Week
from betcore_async.sqlite.private import open_new

_WeekName = Annotated[Week, PlainValidator(Week.parse), PlainSerializer(str)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0)]
_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


class Manifest(BaseModel):
    """One archived week. Sizes in bytes, times in microseconds since the epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    week: _WeekName
    starts_at: int
    ends_at: int
    predecessor: _WeekName | None
    successor: _WeekName
    created_at: int
    """When the week's file was born: tells it from the same week of another database."""
    sealed_at: int
    archived_at: int
    schema_version: _Count
    users: _Count
    bets: _Count
    open_bets: _Count
    entries: _Count
    location: str
    """Where the archive is, without credentials."""
    object: Annotated[str, Field(pattern=r"^\d{4}-W\d{2}/[0-9a-f]{8}\.db\.zst$")]
    """Key of the compressed file, within the archive."""
    size: _Count
    sha256: _Sha256
    """Of the file."""
    archived_size: _Count
    archived_sha256: _Sha256
    """Of the object, the compressed file."""

    def to_bytes(self) -> bytes:
        """Return the one text of this manifest, with a checksum of its own in it."""
        fields = self.model_dump(mode="json")
        checksum = hashlib.sha256(orjson.dumps(fields, option=_CANONICAL)).hexdigest()
        return orjson.dumps({"manifest": fields, "sha256": checksum}, option=_CANONICAL)

    @classmethod
    def from_bytes(cls, data: bytes, source: str, week: Week) -> Self:
        """Return the manifest of `week` that `data` is. Raises ArchiveDamagedError where a byte of it is not right."""
        try:
            manifest = cls.model_validate(orjson.loads(data)["manifest"])
        except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError):
            manifest = None
        if manifest is None or manifest.to_bytes() != data or manifest.week != week:
            raise ArchiveDamagedError(f"{source} is damaged: it is not the manifest of {week} any more", week=week)
        return manifest


def manifest_key(week: Week) -> str:
    """Return the key of a week's manifest within the archive."""
    return f"{week}/manifest.json"


def read_record(family: Family, week: Week) -> Manifest:
    """Return what the record beside the live file says of a week.

    Raises ArchiveDamagedError for a record that makes no sense or cannot be read.
    """
    path = family.record_of(week)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArchiveDamagedError(f"{path} cannot be read: {error.strerror}", week=week) from error
    return Manifest.from_bytes(data, str(path), week)


def write_record(family: Family, manifest: Manifest) -> None:
    """Keep the record of an archived week beside the live file, synced to disk. Only for who holds the archive lock."""
    path = family.record_of(manifest.week)
    new = path.with_name(f"{path.name}.new")
    _write_private(new, manifest.to_bytes())
    new.replace(path)
    sync(path.parent)


def _write_private(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # of a process that was killed here
    with os.fdopen(open_new(path), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
