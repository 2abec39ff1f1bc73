"""The `betcore` command."""

import errno
import os
import sys
from typing import NoReturn

from betcore_async.errors import BetcoreError

UNUSABLE = 2
"""Exit status when what was given cannot be used; 1 says that the work was done and found something wrong."""

_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> NoReturn:
    """Run the command line; ends the process with status 0, 1 (bad findings), 2 (unusable input) or 130 (Ctrl-C).

    An error of this library is one line on stderr, never a traceback. Neither is a reader of stdout that went away, nor
    a disk that has no room for it.
    """
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # at the end of the interpreter it would fail with a traceback
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        _end(f"the result cannot be written: {error.strerror}")
    sys.exit(0)


def _run() -> None:
    try:
        from betcore_async.cli.application import application
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        _end("the command line needs two more packages; install them with: pip install 'betcore_async[cli]'")
    try:
        application()
    except BetcoreError as error:
        _end(error.message)


def _drop_output() -> None:
    """Send what is still buffered nowhere: the interpreter would try to write it again, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str) -> NoReturn:
    print(f"betcore: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(UNUSABLE)
