"""Files for their owner alone."""

import contextlib
import os
from pathlib import Path


def create_private(file: Path) -> None:
    """Create an empty file readable by its owner alone; SQLite gives -wal and -shm the mode of the main file."""
    with contextlib.suppress(FileExistsError):
        os.close(open_new(file))


def open_new(file: Path) -> int:
    """Create a file readable by its owner alone, and return its descriptor, to write to.

    What root makes goes to the owner of the folder: else a service that runs as that user could not open the week that
    `sudo betcore partitions rotate` began. Raises FileExistsError.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a file system without owners, or one whose root we are not
            folder = file.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
    return descriptor
