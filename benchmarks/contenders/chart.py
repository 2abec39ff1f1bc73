"""A chart of a comparison, as one SVG file that needs nothing beside it: a panel for a case, a bar for a contender."""

from html import escape
from math import log10

WIDTH, PANELS_A_ROW, MARGIN = 1080, 2, 16
LABELS, NUMBERS, BAR, GAP, HEAD = 150, 130, 16, 6, 40

STYLE = """
svg { font: 12px system-ui, sans-serif; background: #ffffff; }
text { fill: #1f2328; } .title { font-weight: 600; font-size: 14px; } .number { fill: #57606a; }
.bar { fill: #b6bec9; } .ours { fill: #2f6fde; } .wrong { fill: #d1403f; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; } text { fill: #e6edf3; } .number { fill: #9aa4af; } .bar { fill: #4b5563; }
}
"""


def chart(title: str, cases: dict[str, dict[str, tuple[float, str]]], ours: str, wrong: set[tuple[str, str]]) -> str:
    """Return the SVG: `cases` holds each contender's number and the text beside its bar, on a logarithmic scale.

    `wrong` names the (case, contender) pairs that made errors or lost updates; their bars are red.
    """
    column = (WIDTH - MARGIN) / PANELS_A_ROW
    parts, top, tallest = [f'<text class="title" x="{MARGIN}" y="28">{escape(title)}</text>'], 44.0, 0.0
    for place, (case, found) in enumerate(cases.items()):
        if place % PANELS_A_ROW == 0:
            top, tallest = top + tallest, 0.0
        kinds = {name: "wrong" if (case, name) in wrong else "ours" if name == ours else "" for name in found}
        box = (MARGIN + place % PANELS_A_ROW * column, top, column - MARGIN)
        parts.append(_panel(box, case, found, kinds))
        tallest = max(tallest, HEAD + len(found) * (BAR + GAP) + MARGIN)
    height = top + tallest
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _panel(
    box: tuple[float, float, float], case: str, found: dict[str, tuple[float, str]], kinds: dict[str, str]
) -> str:
    left, top, width = box
    parts = [f'<text class="title" x="{left:.0f}" y="{top + 22:.0f}">{escape(case)}</text>']
    numbers = [number for number, _ in found.values() if number > 0]
    low, high = min(numbers, default=1.0) / 3, max(numbers, default=1.0)  # the shortest bar is still a bar
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    for place, (name, (number, told)) in enumerate(ranked):
        y = top + HEAD + place * (BAR + GAP)
        share = log10(number / low) / log10(high / low) if number > 0 else 0.0
        length = max(share * (width - LABELS - NUMBERS), 1.0)
        middle = y + BAR - 4
        parts += [
            f'<text x="{left + LABELS - 8:.0f}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="bar {kinds[name]}" x="{left + LABELS}" y="{y}" width="{length:.1f}" height="{BAR}"/>',
            f'<text class="number" x="{left + LABELS + length + 6:.1f}" y="{middle:.0f}">{escape(told)}</text>',
        ]
    return "".join(parts)
