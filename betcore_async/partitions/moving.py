"""Files of sealed weeks that are put into the folder, or taken out of it, for good and for all processes."""

import errno
import os
import secrets
import threading
from datetime import timedelta
from pathlib import Path

from betcore_async.errors import PartitionError
from betcore_async.partitions.files import ARCHIVE, Family, occupied, publish, remove, sync
from betcore_async.partitions.rotation import finalize, make_whole
from betcore_async.partitions.week import Week
from betcore_async.sqlite.private import create_private
from betcore_async.tasks import finish, in_thread

_PIECE = 1024 * 1024  # bytes copied between two looks at whether the caller has gone


async def move_in(family: Family, week: Week, source: Path, budget: timedelta) -> Path:
    """Copy a week's file, which was checked before, to its place in the folder, synced; return that place.

    Raises PartitionError where there is one already or the copy cannot be made; nothing is left behind then.
    """
    final, staging = family.path_of(week), family.new_restoring(week)

    def copied(stop: threading.Event) -> None:
        _copy(source, staging, stop)
        if not finalize(staging):
            raise PartitionError(f"cannot make a read-only file of {staging}", week=week, path=staging)

    async with family.alone(budget, ARCHIVE):  # else a start would take the copy for a left-over
        try:
            if not await make_whole(source, budget):
                raise PartitionError(
                    f"{source} is in use; close what has it open, and try again", week=week, path=source
                )
            await in_thread(copied)
            async with family.alone(budget):
                await in_thread(lambda _: _publish(staging, final))
        except OSError as error:
            raise PartitionError(f"cannot copy {source} to {final}: {error.strerror}", week=week, path=final) from error
        finally:
            await finish(in_thread(lambda _: remove(staging)))
    return final


async def move_out(family: Family, week: Week, target: Path, budget: timedelta) -> Path:
    """Move a week's file, which was detached before, out of the folder to `target`, a folder or a name; return which.

    Killed half-way, the file is in its old place, or in both. Raises PartitionError where `target` is there already or
    cannot be written.
    """
    source = family.path_of(week)
    final = target / source.name if target.is_dir() else target
    async with family.alone(budget, ARCHIVE), family.alone(budget):
        try:
            await in_thread(lambda stop: _move(source, final, stop))
        except OSError as error:
            raise PartitionError(f"cannot move {source} to {final}: {error.strerror}", week=week, path=final) from error
    return final


def _move(source: Path, final: Path, stop: threading.Event) -> None:
    if occupied(final):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    try:
        source.rename(final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = final.with_name(f"{final.name}.{secrets.token_hex(4)}.part")  # a name of its own: others may have one
        try:
            _copy(source, part, stop)
            part.chmod(source.stat().st_mode & 0o777)
            publish(part, final)
        finally:
            part.unlink(missing_ok=True)
        remove(source)
    sync(final.parent)
    sync(source.parent)


def _publish(staging: Path, final: Path) -> None:
    if os.path.lexists(final):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    publish(staging, final)


def _copy(source: Path, target: Path, stop: threading.Event) -> None:
    create_private(target)
    with source.open("rb") as read, target.open("wb") as write:
        while piece := read.read(_PIECE):
            if stop.is_set():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            write.write(piece)
