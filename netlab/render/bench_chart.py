"""The chart of `netlab bench`: SVG drawn by hand, the same in a page (HTML), or as pixels (PNG).

    a column for each kernel:   time of a packet over services, predicted (lines) and measured (points)
                                time to load all rules and to change one service, measured

Law: both axes are logarithmic; a line of the upper panel is a prediction, a point a measurement with half of its rounds within
the bar. Nothing that was not measured is drawn as a point. Only PNG needs a library (resvg-py, the extra `chart`).
"""

from __future__ import annotations

import html as htmllib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from netlab.bench.report import ANY, Held, Report, Row, Spread
from netlab.errors import InputError
from netlab.render.bench import KERNELS, heading, text, time

SUFFIXES = (".svg", ".png", ".html")
COLOURS = {"iptables-legacy": "#c62828", "iptables-nft": "#ef6c00", "nftables": "#1565c0", "ipvs": "#2e7d32"}
_GREY, _PALE = "#5f6368", "#e3e5e8"
_WIDE, _HIGH = 420, 300  # of a panel
_LEFT, _RIGHT, _TOP, _GAP = 74, 118, 92, 118
_LOWER = 190  # the height of the lower panels

Points = list[tuple[float, float]]


def chart(report: Report, suffix: str) -> bytes:
    """The chart as the content of a file.

    Parameters
    ----------
    report : Report
    suffix : str
        One of `SUFFIXES`.

    Raises
    ------
    InputError
        PNG without resvg-py.
    """
    drawn = svg(report)
    if suffix == ".svg":
        return drawn.encode()
    if suffix == ".html":
        body = f"{drawn}\n<pre>{htmllib.escape(text(report))}</pre>"
        style = "body{font-family:sans-serif;margin:2em} pre{font-size:12px;overflow-x:auto} svg{max-width:100%;height:auto}"
        head = f'<meta charset="utf-8"><title>What a lookup costs</title><style>{style}</style>'
        return f"<!doctype html>\n<html><head>{head}</head><body>\n{body}\n</body></html>\n".encode()
    return png(drawn)


def png(drawn: str) -> bytes:
    """SVG as pixels, two for each of its own."""
    require_png()
    from importlib import import_module

    resvg_py: Any = import_module("resvg_py")
    return bytes(resvg_py.svg_to_bytes(svg_string=drawn, zoom=2, background="white"))


def require_png() -> None:
    """InputError where pixels cannot be made."""
    from importlib.util import find_spec

    if find_spec("resvg_py") is None:
        raise InputError("a chart as PNG needs the library resvg-py", hint="pip install 'netlab-k8s[chart]', or write .svg")


def svg(report: Report) -> str:
    """All panels of a report."""
    kernels = [k.name for k in report.kernels] or [""]
    timed = bool(report.kernels)
    width = len(kernels) * (_LEFT + _WIDE + _RIGHT)
    height = _TOP + 16 + _HIGH + (_GAP + _LOWER + 48 if timed else 82)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" fill="#202124">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(_LEFT, 30, "What a lookup costs in each mode of kube-proxy", size=17, bold=True),
        _text(_LEFT, 50, heading(report), colour=_GREY),
    ]
    packets = [value for row in report.rows for value in _values(row)]
    nodes = [value for h in report.held for one in (h.load, h.update) if one is not None for value in (one.low, one.high)]
    most = max([row.services for row in report.rows] + [10])
    for n, kernel in enumerate(kernels):
        left = n * (_LEFT + _WIDE + _RIGHT) + _LEFT
        release = next((f" (Linux {k.release})" for k in report.kernels if k.name == kernel), "")
        rows = [row for row in report.rows if row.kernel == kernel]
        what = "time of a packet" if timed else "rules that a packet passes"
        upper = _Panel(left, _TOP + 16, _HIGH, most, packets, "us" if timed else "")
        parts += [_text(left, _TOP - 10, KERNELS[kernel] + release, bold=True), _text(left, _TOP + 6, what, colour=_GREY)]
        parts += [*upper.frame(), *_packets(upper, rows, timed)]
        if timed and nodes:
            lower = _Panel(left, _TOP + 16 + _HIGH + _GAP, _LOWER, most, [v * 1e9 for v in nodes], "us")
            mine = [h for h in report.held if h.kernel == kernel]
            about = "time to load all rules (filled), and to change one service (hollow)"
            parts += [_text(left, lower.top - 10, about, colour=_GREY), *lower.frame(), *_nodes(lower, mine)]
    lines = "lines: predicted; points: measured, half of the rounds within the bar" if timed else "counted by the model"
    marks = "solid, filled: the last service; dashed, hollow: the first; dotted: an established flow"
    for at, words in enumerate((lines, marks)):
        parts.append(_text(_LEFT, _TOP + 16 + _HIGH + 56 + 14 * at, words, colour=_GREY, size=11))
    return "\n".join([*parts, "</svg>\n"])


def _values(row: Row) -> Iterable[float]:
    if row.measured is None and row.predicted is None:
        yield max(row.rules, 1.0)
    elif row.place != "middle":
        found = [row.predicted, *((row.measured.low, row.measured.high) if row.measured is not None else ())]
        yield from (max(value, 100.0) for value in found if value is not None)


class _Panel:
    """Logarithmic axes: services along, a value up."""

    def __init__(self, left: float, top: float, high: float, most: int, values: Sequence[float], unit: str) -> None:
        self.left, self.top, self.high, self.unit, self.most = left, top, high, unit, most
        self.decades = math.log10(most)
        self.low = math.floor(math.log10(min(values)))
        self.up = max(math.ceil(math.log10(max(values))), self.low + 1)

    def x(self, services: float) -> float:
        return self.left + math.log10(services) / self.decades * _WIDE

    def y(self, value: float) -> float:
        share = (math.log10(max(value, 10.0**self.low)) - self.low) / (self.up - self.low)
        return self.top + self.high - share * self.high

    def frame(self) -> Iterable[str]:
        """Grid, ticks and their labels."""
        for power in range(self.low, self.up + 1):
            y = self.y(10.0**power)
            yield _line(self.left, y, self.left + _WIDE, y, _PALE)
            yield _text(self.left - 8, y + 4, _tick(10.0**power, self.unit), anchor="end")
        for power in range(math.floor(self.decades) + 1):
            x = self.x(10.0**power)
            yield _line(x, self.top, x, self.top + self.high, _PALE)
            yield _text(x, self.top + self.high + 18, f"{10**power:,}", anchor="middle")
        if self.decades - math.floor(self.decades) > 0.15:
            yield _text(self.left + _WIDE, self.top + self.high + 18, f"{self.most:,}", anchor="middle")
        yield _text(self.left + _WIDE / 2, self.top + self.high + 36, "services", anchor="middle", colour=_GREY)


def _packets(panel: _Panel, rows: Sequence[Row], timed: bool) -> list[str]:
    parts: list[str] = []
    ends: list[tuple[float, str, str]] = []
    for engine in dict.fromkeys(row.engine for row in rows):
        colour = COLOURS[engine]
        for place, flow, dash in ((ANY, "established", "2 4"), ("first", "new", "6 4"), ("last", "new", "")):
            of = [r for r in rows if (r.engine, r.flow) == (engine, flow) and r.place in (place, "only")]
            series = sorted(of, key=lambda r: r.services)
            values = [(r.services, r.predicted if timed else r.rules) for r in series]
            line = [(panel.x(n), panel.y(value)) for n, value in values if value is not None]
            seen = [panel.y(r.measured.median) for r in series if r.measured is not None]
            parts += _polyline(line, colour, dash)
            for r in series:
                if r.measured is not None and (r.place, place) != ("only", "first"):  # drawn as the last
                    about = f"{engine}, {r.services:,} services, {place}, {flow}: {time(r.measured.median)}"
                    size = 2.0 if flow == "established" else 3.6
                    parts += _point(panel, r.services, r.measured, 1.0, colour, place == "last", size, about)
            heights = [y for _, y in line] or seen
            if place == "last" and heights:
                ends.append((heights[-1], engine, colour))
            if place == ANY and heights and timed:
                ends.append((heights[-1], "established", _GREY))
    dropped = [end for end in ends if end[1] == "established"][1:]  # one label stands for all
    return parts + _labels(panel, [end for end in ends if end not in dropped])


def _nodes(panel: _Panel, held: Sequence[Held]) -> list[str]:
    parts: list[str] = []
    ends: list[tuple[float, str, str]] = []
    for engine in dict.fromkeys(h.engine for h in held):
        mine = sorted((h for h in held if h.engine == engine), key=lambda h: h.services)
        kinds: tuple[tuple[str, str, Callable[[Held], Spread | None]], ...] = (
            ("load", "", lambda h: h.load), ("change", "6 4", lambda h: h.update),
        )  # fmt: skip
        for kind, dash, of in kinds:
            seen = [(h, one) for h in mine if (one := of(h)) is not None]
            line = [(panel.x(h.services), panel.y(one.median * 1e9)) for h, one in seen]
            parts += _polyline(line, COLOURS[engine], dash)
            for h, one in seen:
                about = f"{engine}, {h.services:,} services, {kind}: {time(one.median * 1e9)}"
                parts += _point(panel, h.services, one, 1e9, COLOURS[engine], kind == "load", 3.2, about)
            if kind == "load" and line:
                ends.append((line[-1][1], engine, COLOURS[engine]))
    return parts + _labels(panel, ends)


def _labels(panel: _Panel, ends: Iterable[tuple[float, str, str]]) -> list[str]:
    """Names at the ends of lines, moved apart where they would lie on each other."""
    last = -math.inf
    parts = []
    for wanted, name, colour in sorted(ends):
        last = max(wanted, last + 14)
        parts.append(_text(panel.left + _WIDE + 10, last + 4, name, colour=colour))
    return parts


def _point(
    panel: _Panel, services: int, measured: Spread, factor: float, colour: str, filled: bool, size: float, about: str
) -> list[str]:
    x, y = panel.x(services), panel.y(measured.median * factor)
    fill = colour if filled else "#fff"
    bar = _line(x, panel.y(measured.low * factor), x, panel.y(measured.high * factor), colour)
    circle = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{fill}" stroke="{colour}" stroke-width="1.3">'
    return [bar, f"{circle}<title>{htmllib.escape(about)}</title></circle>"]


def _polyline(points: Points, colour: str, dash: str) -> list[str]:
    if not points:
        return []
    if len(points) == 1:  # of a single number of services
        (x, y) = points[0]
        points = [(x - 6, y), (x + 6, y)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{1.2 if dash else 1.8}"{dashed}/>']


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, words: str, *, anchor: str = "", colour: str = "", size: int = 0, bold: bool = False) -> str:
    given = {"text-anchor": anchor, "fill": colour, "font-size": str(size or ""), "font-weight": "bold" if bold else ""}
    attributes = "".join(f' {name}="{value}"' for name, value in given.items() if value)
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{htmllib.escape(words)}</text>'


def _tick(value: float, unit: str) -> str:
    if not unit:
        return f"{value:,.0f}"
    name, size = next(((n, s) for n, s in (("s", 1e9), ("ms", 1e6), ("us", 1e3)) if value >= s), ("us", 1e3))
    return f"{value / size:g} {name}"
