"""A weekly file on its way into the archive and back: compressed with zstd, checked with SHA-256, a piece at a time.

Synchronous generators, so that a file of any size takes little memory. Each looks at every piece whether to go on.
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

from betcore_async.errors import ArchiveDamagedError, ArchiveError
from betcore_async.partitions.archive_manifest import Manifest
from betcore_async.partitions.archive_store import missing_extra

PIECE = 1024 * 1024
"""Bytes read, compressed and hashed at a time."""

GoOn = Callable[[int], None]
"""Told how many bytes were done since the last call; raises when the work is to stop."""


class Digest:
    """Size and SHA-256 of bytes that pass by."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = hashlib.sha256()

    def add(self, data: bytes) -> bytes:
        self.size += len(data)
        self._hash.update(data)
        return data

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def pieces_of(path: Path, go_on: GoOn) -> Iterator[bytes]:
    """Yield the bytes of a sealed file that is whole without its -wal.

    Closing it drops the locks SQLite has on it in this process. That does no harm: nobody changes what it holds.
    """
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
                go_on(len(piece))
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror}", path=path) from error


def _zstd() -> ModuleType:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415 - only archives need it
        else:
            from backports import zstd  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise missing_extra() from error
    return zstd


def compress(pieces: Iterable[bytes], plain: Digest, archived: Digest) -> Iterator[bytes]:
    """Yield the compressed pieces, and count what went in and what came out."""
    compressor = _zstd().ZstdCompressor()
    for piece in pieces:
        if data := compressor.compress(plain.add(piece)):
            yield archived.add(data)
    yield archived.add(compressor.flush())


def decompress(parts: Iterable[bytes], manifest: Manifest, source: str, go_on: GoOn) -> Iterator[bytes]:
    """Yield the pieces of the file that `parts`, its compressed object at `source`, holds.

    Raises ArchiveDamagedError where they are not, byte by byte, what the manifest says; not before the last piece
    does that mean that all were right.
    """
    plain, archived = Digest(), Digest()
    try:
        for piece in _expand(parts, archived):
            go_on(len(piece))
            if plain.size + len(piece) > manifest.size:
                raise _damaged(manifest, source, "it holds more than it should")
            yield plain.add(piece)
    except _zstd().ZstdError as error:
        raise _damaged(manifest, source, str(error)) from error
    if (archived.size, archived.sha256) != (manifest.archived_size, manifest.archived_sha256):
        raise _damaged(manifest, source, "its SHA-256 is another one")
    if (plain.size, plain.sha256) != (manifest.size, manifest.sha256):
        raise _damaged(manifest, source, "the SHA-256 of the file in it is another one")


def _expand(parts: Iterable[bytes], archived: Digest) -> Iterator[bytes]:
    decompressor = _zstd().ZstdDecompressor()
    for part in parts:
        data = archived.add(part)
        while not decompressor.eof and (data or not decompressor.needs_input):
            piece = decompressor.decompress(data, max_length=PIECE)
            data = b""
            if piece:
                yield piece
            elif decompressor.needs_input:
                break


def _damaged(manifest: Manifest, source: str, reason: str) -> ArchiveDamagedError:
    return ArchiveDamagedError(f"{source} is damaged: {reason}", week=manifest.week, location=source)
