"""The charts of the report, each a piece of SVG. Colours come from the page's style sheet, by class name."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from betcore_async.demo.axes import Scale, round_times, round_values, short_number, short_time
from betcore_async.demo.latency import Latencies
from betcore_async.demo.summary import WeekBets
from betcore_async.demo.trace import CellMark, CloseUp, PriceBar

WIDE, HALF, HEIGHT = 1080.0, 520.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 14.0, 30.0

_LABELLED = "125"

BET_KINDS = ("won", "lost", "open", "refused", "cancelled")


def price_chart(bars: Sequence[PriceBar], rotations: Sequence[datetime]) -> str:
    """Return the price over the whole feed: a band from low to high, the closing line, a mark at each rotation."""
    times = [bar.at.timestamp() for bar in bars]
    across = _across(times[0], times[-1], WIDE)
    up = _up(min(bar.low for bar in bars), max(bar.high for bar in bars))
    highs = [(across(time), up(bar.high)) for time, bar in zip(times, bars, strict=True)]
    lows = [(across(time), up(bar.low)) for time, bar in zip(times, bars, strict=True)]
    line = [(across(time), up(bar.close)) for time, bar in zip(times, bars, strict=True)]
    marks = [_rotation_mark(across(moment.timestamp()), moment) for moment in rotations]
    parts = [
        _grid(up, WIDE),
        _time_axis(bars[0].at, bars[-1].at, across),
        f'<polygon class="band" points="{_points(highs + lows[::-1])}"/>',
        f'<polyline class="line" points="{_points(line)}"/>',
        *marks,
    ]
    return _svg(WIDE, HEIGHT, "Price over the whole feed, with a mark at each rotation", parts)


def cells_chart(close_up: CloseUp, rotations: Sequence[datetime]) -> str:
    """Return a few hours tick by tick, with every cell that was bet on, coloured by whether it won."""
    ticks = close_up.ticks
    first, last = ticks[0][0], ticks[-1][0]
    low, high = min(price for _, price in ticks), max(price for _, price in ticks)
    # Cells far from the price would squeeze the line flat: the chart shows the price's range and half as much around.
    room = (high - low) / 2 or high / 1000
    across, up = _across(first.timestamp(), last.timestamp(), WIDE), _up(low - room, high + room)
    inside = [mark for mark in close_up.marks if up.low <= mark.cell.low and mark.cell.high <= up.high]
    line = [(across(moment.timestamp()), up(price)) for moment, price in ticks]
    parts = [
        _grid(up, WIDE),
        _time_axis(first, last, across),
        *(_cell(mark, across, up) for mark in inside),
        f'<polyline class="line" points="{_points(line)}"/>',
        *(_rotation_mark(across(at.timestamp()), at) for at in rotations if first <= at <= last),
    ]
    return _svg(WIDE, HEIGHT, "Price tick by tick, with the cells that were bet on", parts)


def _cell(mark: CellMark, across: Scale, up: Scale) -> str:
    left = max(across(mark.cell.start.timestamp()), across.start)
    right = max(min(across(mark.cell.end.timestamp()), across.end), left)
    verdict = "won" if mark.won else "lost"
    told = f"{mark.cell}: {mark.bets} {'bet' if mark.bets == 1 else 'bets'} {verdict}"
    return _box(f"cell {verdict}", (left, right), (up(float(mark.cell.high)), up(float(mark.cell.low))), told)


def weeks_chart(weeks: Sequence[WeekBets]) -> str:
    """Return the bets of each week as a stacked bar, by what became of them."""
    up = _up(0, max(week.total for week in weeks) or 1)
    slot = (HALF - _LEFT - _RIGHT) / len(weeks)
    parts = [_grid(up, HALF)]
    for place, week in enumerate(weeks):
        middle, reach = _LEFT + slot * (place + 0.5), min(slot * 0.7, 64) / 2
        below = 0
        for kind in BET_KINDS:
            if count := getattr(week, kind):
                told = f"{week.week}: {count:,} {kind}"
                parts.append(_box(kind, (middle - reach, middle + reach), (up(below + count), up(below)), told))
                below += count
        if place % (len(weeks) // 8 + 1) == 0:  # room for about eight labels
            parts.append(_label(middle, HEIGHT - 10, week.week, "middle"))
    return _svg(HALF, HEIGHT, "Bets of each week", parts)


def balances_chart(balances: Sequence[int]) -> str:
    """Return how many users end with how much."""
    low, high = min(balances), max(balances)
    edges = round_values(low, high, about=24)
    step = edges[1] - edges[0] if len(edges) > 1 else max(abs(low), 1) / 10
    first = (low // step) * step
    counts: dict[int, int] = {}
    for balance in balances:
        place = int((balance - first) // step)
        counts[place] = counts.get(place, 0) + 1
    across = _across(first, first + step * (max(counts) + 1), HALF)
    up = _up(0, max(counts.values()))
    parts = [_grid(up, HALF)]
    for place, count in sorted(counts.items()):
        begin = first + place * step
        told = f"{begin:,.0f} to {begin + step:,.0f}: {count} users"
        parts.append(_box("balance", (across(begin), across(begin + step) - 1), (up(count), up(0)), told))
    parts += [
        _label(across(value), HEIGHT - 10, short_number(value), "middle")
        for value in round_values(across.low, across.high, 5)
    ]
    return _svg(HALF, HEIGHT, "Distribution of the balances at the end", parts)


def latency_chart(name: str, latencies: Latencies) -> str:
    """Return one histogram over a logarithmic axis of time, with its p50 and p99 marked."""
    width, height = HALF, 190.0
    buckets = latencies.buckets()
    across = Scale(0, len(buckets), _LEFT, width - _RIGHT)
    up = Scale(0, max(bucket.count for bucket in buckets), height - _BOTTOM, _TOP + 12)
    parts = [_grid(up, width, about=3)]
    for place, bucket in enumerate(buckets):
        told = f"{short_time(bucket.low)} to {short_time(bucket.high)}: {bucket.count:,}"
        parts.append(_box("latency", (across(place), across(place + 1) - 1), (up(bucket.count), up(0)), told))
        label = short_time(bucket.low)
        if label[0] in _LABELLED and label[1] in " 0":  # 1 ms, 20 ms, 500 µs: three to a factor of ten
            parts.append(_label(across(place), height - 10, label, "middle"))
    # The labels stand at two heights, for where both quantiles fall into neighbouring bars.
    for share, label, drop in ((0.5, "p50", _TOP + 8), (0.99, "p99", _TOP + 22)):
        value = latencies.quantile(share)
        place = next((i for i, bucket in enumerate(buckets) if value < bucket.high), len(buckets) - 1)
        spot = across(place + 0.5)
        parts.append(f'<line class="quantile" x1="{spot}" x2="{spot}" y1="{_TOP + 4}" y2="{up(0)}"/>')
        shift, anchor = (-4, "end") if spot > width * 0.7 else (4, "start")
        parts.append(_label(spot + shift, drop, f"{label} {short_time(value)}", anchor, kind="told"))
    return _svg(width, height, f"Latency of {name}", parts)


def _across(low: float, high: float, width: float) -> Scale:
    return Scale(low, high, _LEFT, width - _RIGHT)


def _up(low: float, high: float) -> Scale:
    room = (high - low) * 0.05 if low else 0.0  # a chart of counts stands on its zero line
    return Scale(low - room, high + (room or (high - low) * 0.05), HEIGHT - _BOTTOM, _TOP)


def _grid(up: Scale, width: float, about: int = 6) -> str:
    lines = []
    for value in round_values(up.low, up.high, about):
        height = up(value)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{height}" y2="{height}"/>')
        lines.append(_label(_LEFT - 8, height + 4, short_number(value), "end"))
    return "".join(lines)


def _time_axis(first: datetime, last: datetime, across: Scale) -> str:
    return "".join(
        _label(across(moment.timestamp()), HEIGHT - 10, text, "middle") for moment, text in round_times(first, last)
    )


def _rotation_mark(spot: float, moment: datetime) -> str:
    year, week, _ = moment.astimezone(UTC).isocalendar()
    line = f'<line class="rotation" x1="{spot}" x2="{spot}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
    shift, anchor = (-4, "end") if spot > WIDE * 0.9 else (4, "start")
    return line + _label(spot + shift, _TOP + 10, f"{year}-W{week:02}", anchor, kind="told")


def _box(kind: str, sides: tuple[float, float], heights: tuple[float, float], told: str) -> str:
    (left, right), (top, bottom) = sides, heights
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{top}" width="{max(right - left, 0.5):.1f}" '
        f'height="{bottom - top:.1f}" rx="1.5"><title>{escape(told)}</title></rect>'
    )


def _label(x: float, y: float, text: str, anchor: str, *, kind: str = "axis") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in places)


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
