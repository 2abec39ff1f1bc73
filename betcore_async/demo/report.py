"""The report: one HTML page with everything in it, that reads nothing from anywhere else."""

import os
import tempfile
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from betcore_async.demo.charts import (
    BET_KINDS,
    balances_chart,
    cells_chart,
    latency_chart,
    price_chart,
    weeks_chart,
)
from betcore_async.demo.summary import DemoSummary
from betcore_async.demo.trace import Trace
from betcore_async.errors import ConfigError

_NAMES = {
    "place": "Placing a bet",
    "settle": "Settling a cell",
    "price write": "Writing prices",
    "query": "A page of history",
}
_MOST_VIOLATIONS = 20


def check_report_path(path: Path) -> None:
    """Raise ConfigError unless a report can be written to `path`: asked before the work, not after it."""
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else "its folder does not exist or cannot be written to"
        raise ConfigError(f"the report cannot be written to {path}: {reason}", problems={"--report": reason})


def write_report(summary: DemoSummary, trace: Trace, path: Path) -> None:
    """Write the page to `path` with mode 0600: the whole of it or nothing.

    Raises ConfigError when the file cannot be written.
    """
    page = render_report(summary, trace)
    temporary: str | None = None
    try:
        # mkstemp makes the file 0600, in the same folder, so that the rename is atomic.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a file descriptor, not a path
            file.write(page)
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"the report cannot be written to {path}: {reason}", problems={"--report": reason}) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def render_report(summary: DemoSummary, trace: Trace) -> str:
    """Return the page."""
    template = Template(files("betcore_async.demo").joinpath("report.html").read_text(encoding="utf-8"))
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in summary.lines())
    first = f"{summary.first:%d %b %Y} to {summary.last:%d %b %Y}" if summary.first and summary.last else "no tick"
    return template.substitute(
        verdict="audit OK" if summary.ok else "audit FAILED",
        verdict_class="" if summary.ok else "bad",
        subtitle=escape(f"{summary.feed}, {first}, {summary.users} users, {summary.elapsed:.1f} s"),
        tiles=_tiles(summary),
        cards="\n".join(_cards(summary, trace)),
        violations=_violations(summary),
        rows=rows,
    )


def _tiles(summary: DemoSummary) -> str:
    place = summary.timings.get("place")
    tiles = [
        (f"{summary.ticks:,}", "ticks replayed"),
        (f"{summary.bets:,}", "bets placed"),
        (f"{summary.settlements:,}", "bets settled"),
        (f"{summary.rotations}", "weekly rotations"),
        (f"{summary.rate(summary.bets):,.0f}/s", "rate of bets"),
        (f"{place.p99:,.1f} ms" if place else "none", "p99 of placing a bet"),
    ]
    return "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )


def _cards(summary: DemoSummary, trace: Trace) -> list[str]:
    cards = []
    if trace.bars:
        title = f"{escape(trace.symbol)} over the whole feed"
        chart = price_chart(trace.bars, trace.rotations)
        cards.append(
            _card(title, "Closing price and range; a dashed line where the next weekly file began", chart, "wide")
        )
    if trace.close_up.ticks:
        around = "around the first rotation" if trace.rotations else "at the end"
        note = f"{_key('won')}{_key('lost')} A cell wins when a price inside its window lies inside its band"
        cards.append(_card(f"Three hours {around}", note, cells_chart(trace.close_up, trace.rotations), "wide"))
    if summary.weeks:
        kinds = [kind for kind in BET_KINDS if any(getattr(week, kind) for week in summary.weeks)]
        cards.append(_card("Bets per week", "".join(map(_key, kinds)), weeks_chart(summary.weeks)))
    if trace.balances:
        note = f"{len(trace.balances)} users, in minor units"
        cards.append(_card("Balances at the end", note, balances_chart(trace.balances)))
    charts = "".join(
        f"<div><h3>{escape(_NAMES.get(name, name))}</h3>{latency_chart(name, latencies)}</div>"
        for name, latencies in trace.latencies.items()
        if latencies.count
    )
    if charts:
        note = "How long each call took for its caller, waiting included; logarithmic axis"
        cards.append(_card("Latencies", note, f'<div class="latencies">{charts}</div>', "wide"))
    return cards


def _card(title: str, note: str, chart: str, kind: str = "") -> str:
    return f'<div class="card {kind}"><h2>{title}</h2><p>{note}</p>{chart}</div>'


def _key(kind: str) -> str:
    return f'<span class="key"><i style="background: var(--{kind})"></i>{kind}</span>'


def _violations(summary: DemoSummary) -> str:
    shown = summary.audit.violations[:_MOST_VIOLATIONS]
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in shown)}</ul>" if shown else ""
