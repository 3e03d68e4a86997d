"""Charts as SVG text: as much of a plotting library as benchmarks and profiles need."""

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


ROW, FLAME_WIDTH, NARROW = 18, 1000, 0.6
"""Of a flame graph: the height of a row, the width, and the narrowest box that is drawn, in pixels."""

Frame = tuple[str, str]
"""What a box of a flame graph says, and its kind, which gives the colour."""


class _Box:
    """A box of a flame graph: its own and its children's weight."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.children: dict[Frame, _Box] = {}

    def depth(self) -> int:
        return 1 + max((child.depth() for child in self.children.values()), default=0)


def flame(
    title: str,
    unit: str,
    stacks: Mapping[tuple[Frame, ...], float],
    kinds: Mapping[str, tuple[str, str]],
) -> str:
    """An upside-down flame graph: a row for each depth of the stacks, a box as wide as what is in it and below it weighs.

    ``stacks`` has the outermost frame first; ``kinds`` gives the name of each kind and its colour. The title of a box, which a browser
    shows where the mouse is, says its weight in ``unit``.
    """
    root = _Box()
    for stack, weight in stacks.items():
        box = root
        box.weight += weight
        for frame in stack:
            box = box.children.setdefault(frame, _Box())
            box.weight += weight
    used = list(dict.fromkeys(kind for stack in stacks for _, kind in stack))
    top = 84
    height = top + ROW * root.depth() + 12
    size = f'viewBox="0 0 {FLAME_WIDTH + 20} {height}" width="{FLAME_WIDTH + 20}" height="{height}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="10" y="20" font-family="sans-serif" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    at, y = 10, 32
    for kind in kinds:
        if kind in used:
            name, colour = kinds[kind]
            if at + 24 + 7 * len(name) > FLAME_WIDTH:
                at, y = 10, y + 18
            out.append(f'<rect x="{at}" y="{y}" width="10" height="10" fill="{colour}"/>')
            out.append(f'<text x="{at + 14}" y="{y + 9}" {FONT}>{escape(name)}</text>')
            at += 30 + 7 * len(name)
    scale = FLAME_WIDTH / root.weight if root.weight else 0.0

    def draw(box: _Box, label: str, colour: str, x: float, row: int) -> None:
        wide = box.weight * scale
        if wide < NARROW:
            return
        y = top + ROW * row
        share = box.weight / root.weight
        room = int((wide - 6) / 6.4)
        text = label if len(label) <= room else label[: room - 1] + "…" if room > 3 else ""
        out.append(
            f"<g><title>{escape(f'{label}: {box.weight:.3f} {unit}, {share:.1%}')}</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{ROW - 1}" fill="{colour}" stroke="#ffffff" stroke-width="0.5"/>'
            f'<text x="{x + 3:.1f}" y="{y + 13}" {FONT}>{escape(text)}</text></g>'
        )
        for (name, kind), child in sorted(box.children.items(), key=lambda item: -item[1].weight):
            draw(child, name, kinds[kind][1], x, row + 1)
            x += child.weight * scale

    draw(root, "all", "#dddddd", 10, 0)
    out.append("</svg>")
    return "\n".join(out) + "\n"
