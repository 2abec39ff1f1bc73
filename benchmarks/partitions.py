"""Weekly files: a rotation while bets are being placed, and questions over a year of them.

    python benchmarks/partitions.py [--only rotation|queries] [--quick] [--rounds N] [--users N] [--open-bets N]
        [--bets-a-week N] [--json FILE]

Each contender runs in a process of its own on fresh files, and they take turns, round by round. What is printed are
medians over the rounds. After each measurement the files are audited: what is missing or doubled counts as broken.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contenders import rotation, weeks
from sqlite_pool import versions

from betcore_async.errors import BetcoreError

Results = dict[str, dict[str, dict[str, Any]]]


def one_round(name: str, case: str, template: Path) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--be", name, "--case", case, "--template", str(template)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if ended.returncode != 0:
        raise BetcoreError(f"{name}, {case}: {ended.stderr.strip()}")
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def be_contender(options: argparse.Namespace) -> None:
    if options.case in weeks.ALL_CASES:
        print(json.dumps(asyncio.run(weeks.run(options.be, options.case, options.template))))
        return
    with tempfile.TemporaryDirectory(prefix="betcore-bench-") as folder:
        found = asyncio.run(rotation.run(options.be, options.case, options.template, Path(folder) / "data"))
    print(json.dumps(found))


def median_of(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


def rotations(options: argparse.Namespace) -> Results:
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="betcore-bench-") as folder:
        template = Path(folder) / "data"
        asyncio.run(rotation.fill(template, options.users, options.open_bets))
        for number in range(options.rounds):
            for case in rotation.CASES:
                for name in rotation.CONTENDERS[:: -1 if number % 2 else 1]:  # nobody is always first
                    samples.setdefault((case, name), []).append(one_round(name, case, template))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    return {case: {name: median_of(samples[case, name]) for name in rotation.CONTENDERS} for case in rotation.CASES}


def queries(options: argparse.Namespace) -> Results:
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="betcore-bench-") as folder:
        template = Path(folder)
        asyncio.run(weeks.fill(template, options.bets_a_week))
        for number in range(options.rounds):
            for case, names in weeks.ALL_CASES.items():
                for name in names[:: -1 if number % 2 else 1]:
                    samples.setdefault((case, name), []).append(one_round(name, case, template))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    weeks.check_answers(samples)
    return {case: {name: median_of(samples[case, name]) for name in names} for case, names in weeks.ALL_CASES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round with a tenth of the rows, in seconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--open-bets", type=int, default=50_000)
    parser.add_argument("--bets-a-week", type=int, default=50_000, help="rows of each of the weekly files")
    parser.add_argument("--only", choices=["rotation", "queries"])
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--template", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be:
        be_contender(options)
        return
    if options.quick:
        options.rounds, options.users, options.open_bets = 1, options.users // 10, options.open_bets // 10
        options.bets_a_week //= 10
    numbers = {"versions": versions(), "users": options.users, "open_bets": options.open_bets}
    if options.only != "queries":
        numbers["rotation"] = rotations(options)
        rotation.show(numbers["rotation"])
    if options.only != "rotation":
        numbers |= {"bets_a_week": options.bets_a_week, "queries": queries(options)}
        weeks.show(numbers["queries"])
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=2))


if __name__ == "__main__":
    main()
