"""Everything a developer runs, by name.

    python3 noxfile.py -s demo      # works with Python 3.11+ and git alone
    python3 noxfile.py -s tests
    nox -s lint typing              # the same, where nox is installed

Run as a script, this file needs no nox: it makes a private one in `.nox/_bootstrap` and starts itself again with it.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this line is what tells the owner of an older Python
    sys.exit(f"betcore_async needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}")

import fcntl
import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
PRIVATE = ROOT / ".nox" / "_bootstrap"
NOX = "nox>=2025.5.1"


def become_nox(python: str | Path) -> NoReturn:
    """Replace this process: exit status, signals and the terminal are nox's own from here on."""
    os.execv(python, [str(python), "-m", "nox", "--noxfile", str(ROOT / "noxfile.py"), *sys.argv[1:]])


def private_nox() -> Path:
    """Return the Python of a private environment that has nox; made when it is not there, or not whole."""
    python, ready = PRIVATE / "bin" / "python", PRIVATE / "ready"
    made_of = f"{NOX}\n{sys.version}\n{sys.base_prefix}\n"
    PRIVATE.parent.mkdir(exist_ok=True)
    # Two first runs at one time take turns; the lock goes with the process, however that ends.
    with (PRIVATE.parent / "_bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The mark is written last: an environment without it is one whose making was cut off.
        if not (os.access(python, os.X_OK) and ready.exists() and ready.read_text() == made_of):
            make_environment(python)
            ready.write_text(made_of)
    return python


def make_environment(python: Path) -> None:
    if not (find_spec("venv") and find_spec("ensurepip")):
        sys.exit(
            f"{sys.executable} cannot make virtual environments: install its venv package "
            "(on Debian and Ubuntu: apt install python3-venv)"
        )
    print(f"noxfile.py: setting up {NOX} in {PRIVATE}, once", file=sys.stderr, flush=True)
    shutil.rmtree(PRIVATE, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(PRIVATE)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", NOX],
    ):
        if subprocess.call(command, stdout=sys.stderr.fileno()) != 0:
            sys.exit(f"noxfile.py: cannot set up nox, the reason is above; this failed: {' '.join(command)}")


try:
    import nox
    from nox.command import CommandFailed
    from nox.project import dependency_groups, load_toml
except ImportError:  # not there, or from before it could read dependency groups
    if __name__ != "__main__":
        raise
    try:
        become_nox(private_nox())
    except KeyboardInterrupt:
        sys.exit(130)

if __name__ == "__main__":
    become_nox(sys.executable)

nox.needs_version = NOX.removeprefix("nox")
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = bool(os.environ.get("CI"))
nox.options.sessions = ["lint", "typing", "tests"]

# How long a program has after Ctrl-C: the demo still runs its audit, the tests still stop their servers.
GRACE = 60.0

# Tests share the processors by file, so that what a file's tests share is made once. More than four gain little, and
# each has servers of its own.
PARALLEL = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")


def install(session: nox.Session, *, extras: str = "", groups: tuple[str, ...] = ()) -> None:
    """Install the built wheel (never the checkout itself, so that what is tested is what is shipped)."""
    wanted = dependency_groups(load_toml(ROOT / "pyproject.toml"), *groups)
    # pip builds a folder anew each time, uv only when told.
    fresh = ["--reinstall-package", "betcore_async"] if session.venv_backend == "uv" else []
    session.install(*fresh, f".{extras}", *wanted)


def run_betcore(session: nox.Session, *arguments: str) -> None:
    """Run the `betcore` command where the user stands, and end with its exit status: nox alone would make it 1."""
    try:
        with session.chdir(session.invoked_from):
            session.run("betcore", *arguments, interrupt_timeout=GRACE)
    except CommandFailed as failure:
        sys.exit(getattr(failure, "return_code", None) or 1)  # the attribute is newer than our oldest nox


@nox.session
def demo(session: nox.Session) -> None:
    """Run the main job: prices in, bets placed and settled, weeks rotated, books audited."""
    install(session, extras="[cli,embedded]")
    run_betcore(session, "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, those against a real Redis included, on the Python that runs nox."""
    install(session, extras="[archive,cli,embedded]", groups=("test",))
    session.run("pytest", *PARALLEL, *session.posargs, interrupt_timeout=GRACE)


def tests_on(version: str) -> None:
    """Offer the tests on another Python as a session of its own, where there is a `python3.12` on the path."""

    @nox.session(python=version, name=f"tests-{version}")
    def tests_there(session: nox.Session) -> None:
        """Run the same on the Python it is named after."""
        tests(session)


for supported in ("3.11", "3.12", "3.13"):
    tests_on(supported)


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests that meet our libraries most with the oldest releases of them that pyproject.toml allows."""
    install(session, extras="[archive,cli,embedded]", groups=("test",))
    project = load_toml(ROOT / "pyproject.toml")["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    session.install(*(re.sub(r">=([0-9.]+)[^;]*", r"==\1.*", requirement) for requirement in wanted))
    session.run("pytest", *PARALLEL, "tests/unit", "tests/integration", *session.posargs, interrupt_timeout=GRACE)


@nox.session
def integration(session: nox.Session) -> None:
    """Run the tests that need a server or kill processes."""
    install(session, extras="[archive,cli,embedded]", groups=("test",))
    folders = ("tests/conformance", "tests/integration", "tests/reliability")
    session.run("pytest", *PARALLEL, *folders, *session.posargs, interrupt_timeout=GRACE)


@nox.session
def sweep(session: nox.Session) -> None:
    """Kill and cancel rotations, starts, archives and restores at every step, and settle cells of 100,000 bets.

    `tests` does so at a sample of the steps, and settles small cells.
    """
    install(session, extras="[archive,cli,embedded]", groups=("test",))
    names = ("rotation_crash", "rotation_cancellation", "archive_crash", "archive_cancellation", "big_cells")
    files = [f"tests/reliability/test_{name}.py" for name in names]
    session.run("pytest", "--every-step", "--full-size", *PARALLEL, *files, *session.posargs, interrupt_timeout=GRACE)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and the direction of imports."""
    session.install(*dependency_groups(load_toml(ROOT / "pyproject.toml"), "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, extras="[archive,cli,embedded]", groups=("lint",))
    session.run("mypy", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks, or the one named after `--`; what else follows goes to them: `-- ledger --quick`."""
    install(session, extras="[cli,embedded]", groups=("bench",))
    programs = {program.stem: program for program in sorted((ROOT / "benchmarks").glob("*.py"))}
    named = [name for name in session.posargs if name in programs]
    options = [option for option in session.posargs if option not in programs]
    for name in named or programs:
        session.run("python", str(programs[name]), *options, interrupt_timeout=GRACE)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation to docs/_build; a warning is an error."""
    install(session, groups=("docs",))
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build", *session.posargs)


@nox.session
def migrate(session: nox.Session) -> None:
    """Run `betcore migrate` (up, down, goto, plan, status, verify, baseline, new, dump)."""
    install(session, extras="[cli]")
    run_betcore(session, "migrate", *session.posargs)
