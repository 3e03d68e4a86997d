"""Bar charts as SVG text: as much of a plotting library as the benchmarks need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#72b7b2")
BAR, GAP, WIDTH, RIGHT = 9, 9, 560, 60
FONT = 'font-family="sans-serif" font-size="11"'


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 in each decade of a range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for d in decades for t in (10.0**d, 2 * 10.0**d, 5 * 10.0**d) if low <= t <= high * 1.0001]


def bars(title: str, axis: str, series: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> str:
    """A group of horizontal bars for each row, one for each series, on a logarithmic scale with a line at 1.

    A value that a row lacks leaves its bar out. Values are above 0.
    """
    values = [v for row in rows.values() for name, v in row.items() if name in series]
    low = min([0.8, *(v * 0.9 for v in values)])
    high = max([2.0, *(v * 1.1 for v in values)])

    left = 20 + round(6.2 * max((len(label) for label in rows), default=0))

    def x(value: float) -> float:
        return left + WIDTH * math.log(value / low) / math.log(high / low)

    top = 64
    group = BAR * len(series) + GAP
    bottom = top + group * len(rows)
    height = bottom + 34
    size = f'viewBox="0 0 {left + WIDTH + RIGHT} {height}" width="{left + WIDTH + RIGHT}" height="{height}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{left}" y="20" font-family="sans-serif" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    at = left
    for name, colour in zip(series, COLOURS, strict=False):
        out.append(f'<rect x="{at}" y="32" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{at + 14}" y="41" {FONT}>{escape(name)}</text>')
        at += 30 + 7 * len(name)
    for tick in _ticks(low, high):
        strong = 'stroke="#333333" stroke-width="1.2"' if tick == 1 else 'stroke="#dddddd"'
        out.append(
            f'<line x1="{x(tick):.1f}" y1="{top - 6}" x2="{x(tick):.1f}" y2="{bottom}" {strong}/>'
            f'<text x="{x(tick):.1f}" y="{bottom + 13}" text-anchor="middle" {FONT}>{tick:g}</text>'
        )
    out.append(
        f'<text x="{left + WIDTH / 2}" y="{bottom + 28}" text-anchor="middle" {FONT}>{escape(axis)}</text>'
    )
    for index, (label, row) in enumerate(rows.items()):
        y = top + index * group
        middle = y + BAR * len(series) / 2 + 4
        out.append(f'<text x="{left - 6}" y="{middle:.1f}" text-anchor="end" {FONT}>{escape(label)}</text>')
        for k, (name, colour) in enumerate(zip(series, COLOURS, strict=False)):
            if name not in row:
                continue
            value = row[name]
            start, end = sorted((x(1.0), x(value)))
            out.append(
                f'<rect x="{start:.1f}" y="{y + k * BAR}" width="{max(end - start, 1):.1f}" height="{BAR - 1}" '
                f'fill="{colour}"><title>{escape(f"{label}, {name}: {value:.2f}")}</title></rect>'
                f'<text x="{x(max(value, 1)) + 3:.1f}" y="{y + k * BAR + 8}" font-family="sans-serif" '
                f'font-size="8" fill="#444444">{value:.2f}</text>'
            )
    out.append("</svg>")
    return "\n".join(out) + "\n"
