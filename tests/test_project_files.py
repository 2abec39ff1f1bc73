"""The files around the code: what they promise to whoever clones the project."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOXFILE = ROOT / "noxfile.py"
SESSIONS = ["demo", "tests", "lowest", "integration", "sweep", "lint", "typing", "bench", "docs", "migrate"]


@pytest.fixture
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_compose_offers_redis_7_with_a_health_check_on_loopback_alone(compose):
    services = compose["services"]
    assert services.keys() == {"redis", "redis-test"}
    for service in services.values():
        assert service["image"].startswith("redis:7")
        assert service["healthcheck"]["test"][:2] == ["CMD", "redis-cli"]
        assert {"interval", "timeout", "retries"} <= service["healthcheck"].keys()
        assert all(port.startswith("127.0.0.1:") and port.endswith(":6379") for port in service["ports"])


def test_compose_keeps_data_for_development_and_none_for_tests(compose):
    development, test = compose["services"]["redis"], compose["services"]["redis-test"]
    assert development["volumes"] == ["redis-data:/data"]
    assert "redis-data" in compose["volumes"]
    assert "profiles" not in development
    assert test["profiles"] == ["test"]
    assert "volumes" not in test
    assert test["tmpfs"] == ["/data"]
    assert development["ports"] != test["ports"]


def test_every_session_is_there_and_says_what_it_does():
    functions = {node.name: node for node in ast.parse(NOXFILE.read_text()).body if isinstance(node, ast.FunctionDef)}
    sessions = {name: node for name, node in functions.items() if node.decorator_list}
    assert list(sessions) == SESSIONS
    assert all(ast.get_docstring(node) for node in sessions.values())


def test_an_older_python_can_read_noxfile_and_tells_its_owner_what_is_needed():
    ast.parse(NOXFILE.read_text(), feature_version=(3, 7))
    done = run_noxfile(NOXFILE, "sys.version_info = (3, 10, 0)")
    assert done.returncode == 1
    assert done.stderr.startswith("betcore_async needs Python 3.11 or newer; ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_in_one_line_what_to_install(missing, tmp_path):
    noxfile = tmp_path / "noxfile.py"
    noxfile.write_text(NOXFILE.read_text())
    done = run_noxfile(noxfile, f"sys.modules[{missing!r}] = None")
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def run_noxfile(noxfile: Path, prepare: str = "", *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run noxfile.py as a script where nox is not installed, after a line that prepares the interpreter."""
    start = f"runpy.run_path({str(noxfile)!r}, run_name='__main__')"
    program = f"import runpy, sys; sys.modules['nox'] = None\n{prepare}\n{start}"
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


class Bootstrap:
    """A checkout whose Python is a script: it writes down what it is asked, and answers as told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.noxfile = folder / "noxfile.py"
        self.noxfile.write_text(NOXFILE.read_text())
        self.python = folder / "python"
        self.python.write_text(
            "#!/bin/sh\n"
            f'echo "$*" >> {self.log}\n'
            f'case "$2" in venv) mkdir -p "$3/bin" && cp {self.python} "$3/bin/python";;\n'
            "pip) exit ${PIP_STATUS:-0};;\n"
            "nox) exit 7;; esac\n"
        )
        self.python.chmod(0o755)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_noxfile(self.noxfile, f"sys.executable = {str(self.python)!r}", *arguments)

    def asked(self) -> list[str]:
        """Return which modules Python was asked to run since the last look."""
        asked = [line.split()[1] for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return asked


@pytest.fixture
def bootstrap(tmp_path):
    return Bootstrap(tmp_path)


def test_without_nox_a_private_one_is_made_and_takes_over_with_the_same_arguments(bootstrap):
    done = bootstrap.run("-s", "demo", "--", "--feed", "a file", "--json")
    assert done.returncode == 7  # nox's own
    assert done.stdout == ""
    assert (
        bootstrap.log.read_text().splitlines()[-1]
        == f"-m nox --noxfile {bootstrap.noxfile} -s demo -- --feed a file --json"
    )
    assert bootstrap.asked() == ["venv", "pip", "nox"]


def test_the_private_nox_is_made_once(bootstrap):
    bootstrap.run()
    bootstrap.asked()
    assert bootstrap.run().returncode == 7
    assert bootstrap.asked() == ["nox"]


@pytest.mark.parametrize("loss", ["ready", "bin/python"])
def test_a_half_made_private_nox_is_made_anew(bootstrap, loss):
    bootstrap.run()
    bootstrap.asked()
    (bootstrap.folder / ".nox" / "_bootstrap" / loss).unlink()
    leftover = bootstrap.folder / ".nox" / "_bootstrap" / "leftover"
    leftover.touch()
    assert bootstrap.run().returncode == 7
    assert bootstrap.asked() == ["venv", "pip", "nox"]
    assert not leftover.exists()


def test_an_installation_that_fails_is_told_and_tried_again_next_time(bootstrap, monkeypatch):
    monkeypatch.setenv("PIP_STATUS", "1")
    done = bootstrap.run()
    assert done.returncode == 1
    assert "noxfile.py: cannot set up nox" in done.stderr
    assert "Traceback" not in done.stderr
    monkeypatch.delenv("PIP_STATUS")
    bootstrap.asked()
    assert bootstrap.run().returncode == 7
    assert bootstrap.asked() == ["venv", "pip", "nox"]


def test_every_python_that_is_promised_has_a_session_of_its_own():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert promised[0] == project["requires-python"].removeprefix(">=")
    assert f"for supported in {tuple(promised)}:".replace("'", '"') in NOXFILE.read_text()


def test_the_ci_script_runs_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    command = "python3 noxfile.py -s tests"
    assert command in script.read_text()
    assert command in (ROOT / "README.md").read_text()


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    wanted = [
        *project["project"]["dependencies"],
        *(name for extra in project["project"]["optional-dependencies"].values() for name in extra),
        *(name for group in project["dependency-groups"].values() for name in group),
    ]
    names = {requirement.partition(">=")[0].partition("[")[0] for requirement in wanted}
    assert {name for name in names if f"| `{name}` |" not in explained} == set()
