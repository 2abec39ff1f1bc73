"""The data folder of a run: private, used by one run at a time, and never mixed with another run's data."""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from betcore_async.errors import ConfigError

MARK = "betcore-demo.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What a run was started with: an interrupted one goes on only under the same terms."""

    fingerprint: str  # of the feed's ticks
    users: int
    seed: int


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A folder that belongs to this run."""

    path: Path
    terms: RunTerms
    run: str  # names the run's keys on a Redis server that it shares with others
    resumed: bool  # True when an earlier run was interrupted in it

    @property
    def database(self) -> Path:
        """The name of the family of weekly files."""
        return self.path / "bets.db"

    def finish(self) -> None:
        """Note that the run came to its end, so that no later run goes on in the folder."""
        _write_mark(self, finished=True)


@contextmanager
def private_folder(terms: RunTerms, *, keep: bool) -> Iterator[DataFolder]:
    """Make a temporary folder (0700); it is removed at the end of the block unless it is to be kept."""
    path = Path(tempfile.mkdtemp(prefix="betcore-demo-"))
    try:
        with _claimed(path):
            folder = DataFolder(path, terms, _new_run(), resumed=False)
            _write_mark(folder)
            yield folder
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def chosen_folder(path: Path, terms: RunTerms) -> Iterator[DataFolder]:
    """Take the user's folder: a new one, an empty one, or one in which a run with the same terms was interrupted.

    Raises ConfigError, with nothing changed, for a folder with other contents, one that another run is using, one
    whose run came to its end, and one whose run was started with another feed, seed or number of users.
    """
    is_new = not path.exists()
    with ExitStack() as claim:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            claim.enter_context(_claimed(path))
            folder = _taken(path, terms)
        except OSError as error:
            if is_new:
                with suppress(OSError):
                    path.rmdir()
            raise _refusal(path, f"cannot be used: {error.strerror or error}") from error
        yield folder


def _taken(path: Path, terms: RunTerms) -> DataFolder:
    mark = path / MARK
    if not mark.exists():
        stranger = next(path.iterdir(), None)
        if stranger is not None:
            raise _refusal(path, f"belongs to something else: it holds {stranger.name}; name an empty or a new folder")
        folder = DataFolder(path, terms, _new_run(), resumed=False)
        _write_mark(folder)
        return folder
    try:
        facts = orjson.loads(mark.read_bytes())
        known = RunTerms(**facts["terms"])
        earlier = DataFolder(path, known, str(facts["run"]), resumed=True)
        is_ours, is_finished = facts["format"] == _FORMAT, bool(facts["finished"])
    except (ValueError, KeyError, TypeError) as error:
        raise _refusal(path, f"has a {MARK} that cannot be read") from error
    if not is_ours:
        raise _refusal(path, "was made by another version of this demonstration")
    if is_finished:
        raise _refusal(path, "holds a run that came to its end; name an empty or a new folder")
    if known != terms:
        others = {"fingerprint": "another feed", "users": f"{known.users} users", "seed": f"seed {known.seed}"}
        other = [text for name, text in others.items() if getattr(known, name) != getattr(terms, name)]
        raise _refusal(path, f"holds an interrupted run with {' and '.join(other)}; go on with the same, or start anew")
    return replace(earlier, terms=terms)


@contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system lets go of it when the process dies."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(path, "is in use by another betcore demo") from None
        yield
    finally:
        os.close(handle)


def _write_mark(folder: DataFolder, *, finished: bool = False) -> None:
    facts = {"format": _FORMAT, "run": folder.run, "terms": asdict(folder.terms), "finished": finished}
    temporary = folder.path / f".{MARK}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(orjson.dumps(facts))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder.path / MARK)


def _new_run() -> str:
    return f"betcore-demo-{secrets.token_hex(4)}"


def _refusal(path: Path, reason: str) -> ConfigError:
    return ConfigError(f"the data folder {path} {reason}", problems={"--data": reason})
