"""The same contender in several processes at once, all writing to one file."""

import json
import subprocess
import sys
from typing import Any

PROCESSES = 4
PATIENCE = 120.0  # seconds


def run_crowd(program: str, name: str, path: str, seconds: float) -> dict[str, Any]:
    """Start the processes, let them begin together, and return what they did, added up.

    Each is `program --be NAME --member PATH`: it prints a line once it is ready, waits for one, and prints its numbers.
    """
    command = [sys.executable, program, "--be", name, "--member", path, "--seconds", str(seconds)]
    members = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        for member in members:
            assert member.stdout is not None
            assert member.stdout.readline() == "ready\n", "a process of the crowd did not start"
        for member in members:
            assert member.stdin is not None
            member.stdin.write("go\n")
            member.stdin.flush()
        found = [json.loads(member.communicate(timeout=PATIENCE)[0]) for member in members]
    finally:
        for member in members:
            member.kill()
            member.communicate()
    return together(found)


def together(found: list[dict[str, Any]]) -> dict[str, Any]:
    done = sum(one["done"] for one in found)
    return {
        "ops": sum(one["ops"] for one in found),
        "done": done,
        "errors": sum(one["errors"] for one in found),
        "p50_us": sum(one["p50_us"] for one in found) / len(found),
        "p99_us": max(one["p99_us"] for one in found),  # that of the process that had the least luck
        "cpu_us": sum(one["cpu_us"] * one["done"] for one in found) / max(done, 1),
    }
