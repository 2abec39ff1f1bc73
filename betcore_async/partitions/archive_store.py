"""The place archived weeks go to: a folder, or a bucket of S3, Google or Azure, through `obstore`.

Synchronous: runs on a thread. Errors of the store are translated here, and shortened: what a server answers, and the
addresses it was asked at, may hold keys and signatures, so neither becomes part of an error, not even as its cause.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from betcore_async.errors import ArchiveDamagedError, ArchiveError
from betcore_async.partitions.archive_manifest import Manifest, manifest_key
from betcore_async.partitions.files import sync
from betcore_async.partitions.week import Week

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

PART = 8 * 1024 * 1024
"""Bytes of one part of an upload and of one request for a download: with S3's 10,000 parts, objects up to 80 GB."""
PARTS_AT_A_TIME = 2
"""Uploaded at the same time: with PART the memory an upload takes."""
RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
"""Of each request; whoever cancels waits no longer than this."""

_LONGEST_MANIFEST = 64 * 1024  # bytes

_SECRETS = re.compile(r"(?<=\?)\S+|(?<=//)[^/@\s]+(?=@)")
_ANSWER = re.compile(r"(status code: \d+[^:]*):.*", re.DOTALL)
_LONGEST_REASON = 300  # characters


class ArchiveStore:
    """The objects of one archive, by key. `url` as PARTITIONS_ARCHIVE_URL; None means the folder `default`.

    Made for one piece of work and dropped with it: what it holds open (connections, threads) goes then.
    """

    def __init__(self, url: str | None, default: Path) -> None:
        self.folder = _folder_of(url, default)
        self.location = str(self.folder) if self.folder is not None or url is None else url
        self._store = self._open()

    def _open(self) -> "ObjectStore":
        try:
            from obstore.store import LocalStore, from_url  # noqa: PLC0415 - an extra, and slow to import
        except ImportError as error:
            raise missing_extra() from error
        with self._told("open"):
            if self.folder is None:
                return from_url(self.location, retry_config=RETRIES)
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return LocalStore(self.folder)

    @contextlib.contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        from obstore.exceptions import BaseError  # noqa: PLC0415 - as above

        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            reason = _reason(error)
        else:
            return
        raise ArchiveError(f"cannot {doing} the archive {self.location}: {reason}", location=self.location)

    # Manifests

    def manifest(self, week: Week) -> Manifest | None:
        """Return the manifest of a week; None where nothing is archived. Raises ArchiveDamagedError."""
        import obstore  # noqa: PLC0415 - as above

        key = manifest_key(week)
        with self._told("read from"):
            try:
                found = obstore.get(self._store, key)
            except FileNotFoundError:
                return None
            # What is longer is no manifest, and is not read.
            data = bytes(found.bytes()) if found.meta["size"] <= _LONGEST_MANIFEST else b""
        return Manifest.from_bytes(data, f"{self.location}/{key}", week)

    def write_manifest(self, manifest: Manifest, *, replace: bool) -> None:
        """Write the manifest of a week, and see that it is there.

        Raises ArchiveError where it is not, and where there was one although `replace` is False.
        """
        import obstore  # noqa: PLC0415 - as above

        key = manifest_key(manifest.week)
        with self._told("write to"):
            obstore.put(self._store, key, manifest.to_bytes(), mode="overwrite" if replace else "create")
            self._settle(key)
        if self.manifest(manifest.week) != manifest:
            text = f"{self.location} does not return what was written; {manifest.week} stays here"
            raise ArchiveError(text, week=manifest.week, location=self.location)

    # Objects

    def upload(self, key: str, chunks: Iterable[bytes]) -> None:
        """Write an object from its chunks; nothing of it is there when this raises. What `chunks` raises, this does."""
        import obstore  # noqa: PLC0415 - as above

        if self.folder is not None:
            with self._told("write to"):
                (self.folder / key).parent.mkdir(mode=0o700, exist_ok=True)
        failures: list[Exception] = []
        with self._told("write to"):
            try:
                obstore.put(self._store, key, _kept(chunks, failures), chunk_size=PART, max_concurrency=PARTS_AT_A_TIME)
            except Exception:
                if not failures:
                    raise
            else:
                self._settle(key)
        if failures:
            raise failures[0]

    def download(self, key: str, size: int) -> Iterator[bytes]:
        """Yield the `size` bytes of an object. Raises ArchiveDamagedError where it is not there or of another size."""
        import obstore  # noqa: PLC0415 - as above

        source = f"{self.location}/{key}"
        with self._told("read from"):
            try:
                found = obstore.head(self._store, key)["size"]
            except FileNotFoundError:
                found = None
        if found != size:
            what = "is not there" if found is None else f"has {found} bytes instead of {size}"
            raise ArchiveDamagedError(f"{source} {what}", location=source)
        for start in range(0, size, PART):
            with self._told("read from"):
                part = bytes(obstore.get_range(self._store, key, start=start, length=min(PART, size - start)))
            yield part

    def discard(self, manifest: Manifest) -> None:
        """Remove the object of a manifest that was never written. Where the store refuses, the next attempt does it."""
        import obstore  # noqa: PLC0415 - as above

        with contextlib.suppress(ArchiveError), self._told("clean up"):
            obstore.delete(self._store, manifest.object)

    def clear(self, manifest: Manifest) -> None:
        """Remove what attempts to archive the week left behind: all objects but the one the manifest names."""
        import obstore  # noqa: PLC0415 - as above

        with self._told("clean up"):
            found = [entry["path"] for entries in obstore.list(self._store, str(manifest.week)) for entry in entries]
            for key in found:
                if key not in {manifest.object, manifest_key(manifest.week)}:
                    obstore.delete(self._store, key)
            if self.folder is not None:
                for part in (self.folder / str(manifest.week)).glob("*#*"):  # of an upload that was killed
                    part.unlink(missing_ok=True)

    def _settle(self, key: str) -> None:
        """In a folder: keep an object for its owner alone, and make it survive a power cut."""
        if self.folder is not None:
            path = self.folder / key
            path.parent.chmod(0o700)
            path.chmod(0o600)
            for place in (path, path.parent, self.folder):
                sync(place)


def missing_extra() -> ArchiveError:
    """Return the error that says which packages archives need."""
    return ArchiveError("archives need two more packages; install them with: pip install 'betcore_async[archive]'")


def _kept(chunks: Iterable[bytes], failures: list[Exception]) -> Iterator[bytes]:
    """Yield the chunks, and keep what they raise: the store's own errors would look like it."""
    try:
        yield from chunks
    except Exception as error:
        failures.append(error)
        raise


def _folder_of(url: str | None, default: Path) -> Path | None:
    if url is None:
        return default
    parts = urlsplit(url)
    if "://" not in url:
        return Path(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _reason(error: BaseException) -> str:
    text = str(error).partition("\n\nDebug source")[0]
    # All that the client says of an address without TLS that it was not allowed to use.
    hint = "; a server without TLS needs AWS_ALLOW_HTTP=true" if text.endswith("builder error") else ""
    return (_SECRETS.sub("…", _ANSWER.sub(r"\1", text))[:_LONGEST_REASON] or type(error).__name__) + hint
