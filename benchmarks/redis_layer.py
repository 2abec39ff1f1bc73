"""betcore_async's Redis layer beside other ways to use Redis from asyncio.

    python benchmarks/redis_layer.py [--quick] [--only NAME ...] [--cases CASE ...] [--python NAME=INTERPRETER ...]

The contenders take turns, round by round, each in a process of its own against one private server, so that whatever
the machine does meanwhile hits all of them; printed are medians over the rounds. A contender that is not installed is
left out, and said to be; `--python broadcaster=other/bin/python` runs one with another interpreter, where versions
conflict. Every answer is checked, and every message counted. redis-benchmark, where it is on the path, is the limit.
"""

import argparse
import asyncio
import csv
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from contenders.redis import CONTENDERS, Contender, Ears

OURS = "betcore_async"
VALUE = b"v" * 100
SYMBOLS = 10
GETS = {"get": 1, "get x64": 64}
BATCHES = {"prices x1": 1, "prices x100": 100, "prices x1000": 1000}
FAN_OUTS = {"fan-out 1": 1, "fan-out 1000": 1000, "fan-out 5000": 5000}
PACE = {1: 500, 1000: 20, 5000: 4}  # messages a second, by number of subscribers: some 20,000 deliveries a second
CASES = (*GETS, *BATCHES, *FAN_OUTS)
TARGETS = [  # case, number, against, at least this many times as good; section "Speed" of the design
    ("get", "ops", "redis-py", 1.0),
    ("get x64", "ops", "redis-py", 4.0),
    ("get x64", "ops", "valkey-glide", 1.5),
    ("prices x100", "ops", "redis-py", 2.0),
    ("fan-out 5000", "ops", "redis-py", 20.0),
    ("fan-out 5000", "ops", "broadcaster", 4.0),
    ("fan-out 5000", "paced_p99_us", "broadcaster", 2.0),
]

# In the process of one contender


async def measure_gets(contender: Contender, tasks: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []

    async def work(ends: float) -> None:
        while (started := perf_counter()) < ends:
            assert await contender.get("bench:value") == VALUE
            latencies.append(perf_counter() - started)

    await asyncio.gather(*(work(perf_counter() + seconds / 5) for _ in range(tasks)))  # warms up
    latencies.clear()
    begun, cpu = perf_counter(), time.process_time()
    await asyncio.gather(*(work(begun + seconds) for _ in range(tasks)))
    return summary(len(latencies), perf_counter() - begun, time.process_time() - cpu, latencies)


async def measure_prices(contender: Contender, batch: int, seconds: float) -> dict[str, float]:
    latencies: list[float] = []
    at = time.time_ns() // 1_000_000 - 1_000_000_000
    written, begun, cpu = 0, perf_counter(), time.process_time()
    while (started := perf_counter()) < begun + seconds:
        points = [(f"S{n % SYMBOLS}", f"{100 + (written + n) % 977}.25", at + written + n) for n in range(batch)]
        await contender.write_prices(points)
        latencies.append(perf_counter() - started)
        written += batch
    return summary(written, perf_counter() - begun, time.process_time() - cpu, latencies)


async def measure_fan_out(contender: Contender, subscribers: int, seconds: float, url: str) -> dict[str, float]:
    delays: list[float] = []

    def note_delay(payload: bytes | str) -> None:
        delays.append((time.monotonic_ns() - int(payload[:20])) / 1e9)

    ears = Ears()
    before = resident()
    await contender.subscribe("bench:channel", subscribers, ears)
    memory = (resident() - before) / subscribers
    cpu = time.process_time()
    burst = min(5000, max(200, round(seconds * 200_000 / subscribers)))
    await publish(url, burst, 0)
    await until(lambda: len(ears.payloads) >= burst * subscribers)
    ended = time.monotonic_ns()
    assert len(ears.payloads) == burst * subscribers, "each message once"
    begun = int(ears.payloads[0][:20])  # when the first message was sent
    found = summary(burst * subscribers, (ended - begun) / 1e9, time.process_time() - cpu, [0.0])
    ears.heard, cpu = note_delay, time.process_time()
    messages = max(4, round(PACE[subscribers] * seconds * 2))
    await publish(url, messages, PACE[subscribers])
    await until(lambda: len(delays) >= messages * subscribers)
    cpu = time.process_time() - cpu
    delays.sort()
    paced_numbers = {
        "paced_p50_us": 1e6 * at(delays, 0.5),
        "paced_p99_us": 1e6 * at(delays, 0.99),
        "paced_cpu_us": 1e6 * cpu / len(delays),
    }
    return {"ops": found["ops"], "burst_cpu_us": found["cpu_us"], "memory_bytes": memory, **paced_numbers}


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - an Event set by each of millions of messages would be measured, too
            await asyncio.sleep(0.001)


async def publish(url: str, messages: int, pace: int) -> None:
    """Publish from another process, so that it costs the subscribers nothing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--publish", f"{messages},{pace}", "--url", url
    )
    assert await process.wait() == 0


def be_publisher(url: str, messages: int, pace: int) -> None:
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        begun = time.monotonic()
        for number in range(messages):
            if pace:
                time.sleep(max(0.0, begun + number / pace - time.monotonic()))
            payload = f'{time.monotonic_ns():020d} {{"symbol":"BTC-USD","price":"42000.50"}}'.encode()
            connection.sendall(
                b"*3\r\n$7\r\nPUBLISH\r\n$13\r\nbench:channel\r\n$%d\r\n%b\r\n" % (len(payload), payload)
            )
            if pace:
                connection.recv(65536)
        connection.sendall(b"*1\r\n$4\r\nQUIT\r\n")
        while connection.recv(65536):
            pass


def resident() -> int:
    if not Path("/proc/self/statm").exists():
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def summary(done: int, took: float, cpu: float, latencies: list[float]) -> dict[str, float]:
    latencies.sort()
    return {
        "ops": done / took,
        "p50_us": 1e6 * at(latencies, 0.5),
        "p99_us": 1e6 * at(latencies, 0.99),
        "cpu_us": 1e6 * cpu / done,
    }


def at(values: list[float], share: float) -> float:
    return values[int(len(values) * share)]


async def run_case(name: str, case: str, seconds: float, url: str) -> dict[str, float] | None:
    """Return None when the library does not offer this."""
    contender = CONTENDERS[name]()
    await contender.open(url)
    try:
        if case in GETS:
            return await measure_gets(contender, GETS[case], seconds)
        if case in BATCHES:
            return await measure_prices(contender, BATCHES[case], seconds)
        return await measure_fan_out(contender, FAN_OUTS[case], seconds, url)
    except NotImplementedError:
        return None
    finally:
        await contender.close()


def be_contender(name: str, case: str, seconds: float, url: str) -> None:
    try:
        found = asyncio.run(run_case(name, case, seconds, url))
    except ImportError as error:
        found = {"missing": str(error)}  # type: ignore[dict-item]
    print(json.dumps(found), flush=True)
    os._exit(0)


# In the process that compares


def one_case(python: str, name: str, case: str, seconds: float, url: str) -> Any:
    command = [python, __file__, "--be", name, "--case", case, "--seconds", str(seconds), "--url", url]
    environment = os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)
        return json.loads(ended.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        last = ended.stderr.strip().splitlines()[-1:] if isinstance(error, json.JSONDecodeError) else [str(error)]
        return {"failed": " ".join(last)}


def the_limit(case: str, url: str, seconds: float) -> dict[str, float] | None:
    """Ask redis-benchmark, which is C and does nothing with what it gets."""
    program = shutil.which("redis-benchmark")
    if program is None or case not in GETS:
        return None
    place = urlsplit(url)
    tasks = GETS[case]
    number = round(seconds * (20_000 if tasks == 1 else 40_000))
    done = subprocess.run(
        [
            program,
            "-h",
            place.hostname,
            "-p",
            str(place.port),
            "-c",
            str(tasks),
            "-n",
            str(number),
            "-t",
            "get",
            "--csv",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    row = next(iter(csv.DictReader(done.stdout.splitlines())))
    micro = {"p50_us": 1000 * float(row["p50_latency_ms"]), "p99_us": 1000 * float(row["p99_latency_ms"])}
    return {"ops": float(row["rps"]), **micro}


async def serve_and_compare(options: argparse.Namespace) -> dict[str, dict[str, list[dict[str, float]]]]:
    from betcore_async.config import RedisSettings
    from betcore_async.redis import EmbeddedRedis, RedisClient

    rounds, seconds = (2, 0.3) if options.quick else (options.rounds, options.seconds)
    names = options.only or list(CONTENDERS)
    pythons = dict(text.split("=", 1) for text in options.python)
    samples: dict[str, dict[str, list[dict[str, float]]]] = {case: {} for case in CASES}
    missing: set[str] = set()
    async with EmbeddedRedis(port=0) as server, RedisClient(RedisSettings.from_url(server.url)) as client:
        await client.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
        for number in range(rounds):
            for case in options.cases or CASES:
                for name in names[number % len(names) :] + names[: number % len(names)]:  # nobody is always first
                    if name in missing:
                        continue
                    await client.execute("FLUSHALL", repeatable=True)
                    await client.set("bench:value", VALUE)
                    python = pythons.get(name, sys.executable)
                    found = await asyncio.to_thread(one_case, python, name, case, seconds, server.url)
                    if found is None:
                        continue
                    if "missing" in found:
                        missing.add(name)
                        print(f"LEFT OUT: {name}: {found['missing']}", file=sys.stderr)
                    elif "failed" in found:
                        print(f"FAILED: {name}, {case}: {found['failed']}", file=sys.stderr)
                    else:
                        samples[case].setdefault(name, []).append(found)
                limit = await asyncio.to_thread(the_limit, case, server.url, seconds)
                if limit is not None:
                    samples[case].setdefault("redis-benchmark", []).append(limit)
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
    if shutil.which("redis-benchmark") is None:
        print("LEFT OUT: redis-benchmark is not on the path", file=sys.stderr)
    return samples


def medians(samples: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    together: dict[str, dict[str, dict[str, float]]] = {}
    for case, contenders in samples.items():
        for name, found in contenders.items():
            numbers = {key: statistics.median(one[key] for one in found) for key in found[0]}
            rates = [one["ops"] for one in found]
            numbers["spread"] = (max(rates) - min(rates)) / numbers["ops"]
            together.setdefault(case, {})[name] = numbers
    return together


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    columns = {"p50_us": "p50 us", "p99_us": "p99 us", "cpu_us": "CPU us"}
    fan_columns = {
        "paced_p50_us": "p50 us",
        "paced_p99_us": "p99 us",
        "paced_cpu_us": "CPU us",
        "burst_cpu_us": "burst CPU",
        "memory_bytes": "B/sub",
    }
    for case, contenders in results.items():
        wanted = fan_columns if case in FAN_OUTS else columns
        what = "deliveries" if case in FAN_OUTS else "points" if case in BATCHES else "GETs"
        print(f"\n{case}: {what} a second" + ("; latency paced, at some 20,000 a second" if case in FAN_OUTS else ""))
        print(
            f"  {'':18}{what + '/s':>14}{'ours':>9}" + "".join(f"{head:>11}" for head in wanted.values()) + f"{'±':>6}"
        )
        ours = contenders.get(OURS, {}).get("ops")
        for name, numbers in sorted(contenders.items(), key=lambda item: -item[1]["ops"]):
            ratio = f"{ours / numbers['ops']:.2f}x" if ours else ""
            cells = "".join(f"{numbers[key]:>11,.1f}" if key in numbers else f"{'':11}" for key in wanted)
            print(f"  {name:18}{numbers['ops']:>14,.0f}{ratio:>9}{cells}{numbers['spread'] / 2:>6.0%}")


def show_targets(results: dict[str, dict[str, dict[str, float]]]) -> None:
    print("\ntargets:")
    for case, key, against, least in TARGETS:
        contenders = results.get(case, {})
        if OURS in contenders and against in contenders:
            ratio = contenders[OURS][key] / contenders[against][key]
            ratio = 1 / ratio if key.endswith("_us") else ratio
            word = "reached" if ratio >= least else "MISSED"
            print(f"  {word:8} {case:13} {key:13} {ratio:6.2f}x of {least:g}x {against}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds, about a minute")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement")
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), help="contenders to run")
    parser.add_argument("--cases", nargs="*", choices=list(CASES), help="cases to run")
    parser.add_argument(
        "--python", nargs="*", default=[], metavar="NAME=INTERPRETER", help="run one with another Python"
    )
    parser.add_argument("--json", type=Path, help="file for the numbers")
    for hidden in ("--be", "--case", "--url", "--publish"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.publish:
        be_publisher(options.url, *map(int, options.publish.split(",")))
        return
    if options.be:
        be_contender(options.be, options.case, options.seconds, options.url)
    results = medians(asyncio.run(serve_and_compare(options)))
    show(results)
    show_targets(results)
    if options.json:
        about = {"python": platform.python_version(), "machine": platform.platform(), "load": os.getloadavg()}
        options.json.write_text(json.dumps({"about": about, "results": results}, indent=2))


if __name__ == "__main__":
    main()
