"""Line charts as SVG: a few series over a logarithmic axis, in panels side by side. Plain text that diffs well."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 72, 18, 64, 52
COLOURS = ("#1f6feb", "#d1550e", "#1a7f37", "#8250df")
TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart. series: points by name, x above 0, y not below."""

    title: str
    x_label: str
    series: Mapping[str, Sequence[Point]]


def svg(panels: Sequence[Panel]) -> str:
    """The panels from left to right. Raises ValueError if one has no point."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * WIDTH} 0)">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join((*parts, "</svg>", ""))


def _panel(panel: Panel) -> Iterable[str]:
    points = [point for series in panel.series.values() for point in series]
    if not points:
        raise ValueError(f"there is nothing to draw in {panel.title!r}")
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    step = _step(max(y for _, y in points))
    top = step * max(1, math.ceil(max(y for _, y in points) / step))
    span = math.log10(high / low) if high > low else 1.0

    def place(point: Point) -> tuple[float, float]:
        across = math.log10(point[0] / low) / span if high > low else 0.5
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - point[1] / top * (HEIGHT - TOP - BOTTOM), 1),
        )

    yield f'<text x="{LEFT}" y="20" font-size="14" fill="#1f2328">{escape(panel.title)}</text>'
    for number in range(round(top / step) + 1):
        _, y = place((low, number * step))
        yield f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#d8dee4"/>'
        yield _text(LEFT - 6, y + 4, "end", f"{number * step:,g}")
    for x in sorted({x for x, _ in points}):
        across, _ = place((x, 0))
        yield f'<line x1="{across}" y1="{HEIGHT - BOTTOM}" x2="{across}" y2="{HEIGHT - BOTTOM + 4}" stroke="#59636e"/>'
        yield _text(across, HEIGHT - BOTTOM + 18, "middle", _short(x))
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "middle", panel.x_label)
    for number, (name, series) in enumerate(panel.series.items()):
        colour = COLOURS[number % len(COLOURS)]
        placed = [place(point) for point in sorted(series)]
        path = " ".join(f"{x},{y}" for x, y in placed)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        yield from (f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in placed)
        at = LEFT + number * 120
        yield f'<circle cx="{at + 5}" cy="38" r="4" fill="{colour}"/>'
        yield _text(at + 14, 42, "start", name)


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#59636e">{escape(text)}</text>'


def _step(most: float) -> float:
    """A round distance between lines, about TICKS of which make up the most."""
    if most <= 0:
        return 1.0
    raw = most / TICKS
    power: float = 10 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)


def _short(number: float) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"
