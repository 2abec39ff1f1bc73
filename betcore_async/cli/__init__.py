"""The `betcore` command."""

import sys
from typing import NoReturn

from betcore_async.errors import BetcoreError

UNUSABLE = 2
"""Exit status when what was given cannot be used; 1 says that the work was done and found something wrong."""


def main() -> NoReturn:
    """Run the command line; ends the process with status 0, 1 (bad findings) or 2 (unusable input).

    An error of this library is one line on stderr, never a traceback.
    """
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
    sys.exit(0)


def _end(message: str) -> NoReturn:
    print(f"betcore: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(UNUSABLE)
