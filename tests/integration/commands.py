"""Runs the `betcore` command as its users do: in a process of its own."""

import os
import subprocess
import sys
from dataclasses import dataclass

COMMAND = [sys.executable, "-c", "from betcore_async.cli import main; main()"]


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str

    @property
    def complaint(self):
        """The one line that says what is wrong; fails when there is more or less than one."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        return line


def environment(**variables):
    return {**os.environ, **variables}


def betcore(*arguments, folder=None, timeout=100, **variables):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=folder,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
    )
    return Result(done.returncode, done.stdout, done.stderr)
