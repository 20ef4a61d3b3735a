"""What a lookup costs, for people (text), for programs (json, csv) and as a chart (svg, log axes).

Law: every form has the same rows. The chart has the counted or predicted cost as a line and what was measured as points with
their spread; nothing that was not measured is drawn as a point.
"""

from __future__ import annotations

import csv as csvlib
import html
import io
import math
from collections.abc import Sequence

import msgspec

from netlab.bench.report import ANY, LARGE, Fit, Held, Report, Row, Spread
from netlab.render.columns import table
from netlab.render.jsonio import API_VERSION

KERNELS = {"host": "the running kernel", "uml": "user-mode Linux", "": "counted by the model"}
COLOURS = {"iptables-legacy": "#c62828", "iptables-nft": "#ef6c00", "nftables": "#1565c0", "ipvs": "#2e7d32", "none": "#616161"}
_INCLUDES = (
    "A time is that of the packet's whole way from the client's device to the endpoint's, minus the same way through a node"
    " without rules: connection tracking, translation and rules. The packets of a burst follow each other: caches are warm."
)


def text(report: Report) -> str:
    """Tables of packets and of what the node holds, then the formula and its error."""
    lines = [f"{report.machine}; every service has {_many(report.endpoints, 'endpoint')}"]
    for kernel in report.kernels:
        lines.append(
            f"{kernel.name}: Linux {kernel.release}, {_many(report.rounds, 'round')}; a packet through a node without rules "
            f"{_time(kernel.baseline.median)}; {kernel.disturbed} of {kernel.bursts} bursts were interrupted and thrown away"
        )
    lines += ["", *_packets(report.rows), "", *_nodes(report.held)]
    if report.fits:
        lines += ["", *_formula(report), "", _INCLUDES]
    return "\n".join(lines)


def _packets(rows: Sequence[Row]) -> list[str]:
    measured = any(row.measured is not None for row in rows)
    head = ["KERNEL", "ENGINE", "SERVICES", "PLACE", "FLOW", "RULES", "PROBES", "BYTES"]
    if measured:
        head += ["PREDICTED", "MEASURED", "SPREAD"]
    body = []
    for row in rows:
        cells = [row.kernel or "-", row.engine, f"{row.services}", row.place, row.flow, _number(row.rules), _number(row.probes)]
        cells.append("-" if row.bytes is None else _number(row.bytes))
        if measured:
            cells += [_time(row.predicted), _time(row.measured.median if row.measured else None), _spread(row.measured)]
        body.append(cells)
    if not measured:
        head, body = head[1:], [cells[1:] for cells in body]
    return table([head, *body])


def _nodes(held: Sequence[Held]) -> list[str]:
    if all(one.load is None for one in held):
        return table([["ENGINE", "SERVICES", "RULES ON THE NODE"], *([h.engine, f"{h.services}", f"{h.rules}"] for h in held)])
    head = ["KERNEL", "ENGINE", "SERVICES", "RULES ON THE NODE", "LOAD", "SPREAD", "UPDATE", "SPREAD", "MEMORY"]
    rows = []
    for h in held:
        cells = [h.kernel, h.engine, f"{h.services}", f"{h.rules}"]
        for one in (h.load, h.update):
            cells += [_time(one.median * 1e9 if one else None), _spread(one, 1e9)]
        memory = "-" if h.memory is None else f"{'' if h.exact else '~'}{h.memory / 1e6:.2f} MB"
        rows.append([*cells, memory])
    return table([head, *rows])


def _formula(report: Report) -> list[str]:
    lines = ["Predicted from yardsticks of this machine: rules that are not kube-proxy's."]
    rows = [["KERNEL", "ENGINE", "NEW FLOW", "ESTABLISHED", "A RULE", "A BYTE BEYOND L2", "A PROBE", "ERROR", "WORST"]]
    for fit in report.fits:
        rows.append([fit.kernel, fit.engine, *_costs(fit), _share(fit.median_error), _share(fit.worst_error)])
    cache = f"{report.cache >> 10} KiB" if report.cache else "taken for 512 KiB, for /sys does not tell"
    lines += table(rows)
    lines.append(f"L2: {cache}. ERROR: the median over new flows, from {LARGE:,} services on where there are any.")
    return lines


def _costs(fit: Fit) -> list[str]:
    return [_time(fit.new), _time(fit.established), _small(fit.per_rule), _small(fit.per_far_byte, 5), _small(fit.per_probe)]


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _small(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f} ns"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _time(ns: float | None) -> str:
    """Nanoseconds in a unit that suits.

    >>> _time(950), _time(12_345), _time(2_500_000_000)
    ('0.95 us', '12.3 us', '2.50 s')
    """
    if ns is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size or unit == "us":
            value = ns / size
            return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f} {unit}"
    raise AssertionError


def _spread(spread: Spread | None, factor: float = 1.0) -> str:
    return "-" if spread is None else f"{_time(spread.low * factor)} - {_time(spread.high * factor)}"


def json(report: Report) -> str:
    """The report as JSON: times of packets in nanoseconds, of loads and updates in seconds, memory in bytes."""
    plain = {"apiVersion": API_VERSION, "kind": "Bench", **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()


def csv(report: Report) -> str:
    """A line a row: nanoseconds a packet."""
    out = io.StringIO()
    writer = csvlib.writer(out, lineterminator="\n")
    head = ["kernel", "engine", "services", "endpoints", "place", "flow", "rules", "probes", "bytes", "predicted_ns"]
    writer.writerow([*head, "median_ns", "low_ns", "high_ns"])
    for r in report.rows:
        m = r.measured
        times = [_plain(m.median), _plain(m.low), _plain(m.high)] if m is not None else ["", "", ""]
        cells = [r.kernel, r.engine, r.services, report.endpoints, r.place, r.flow, _plain(r.rules), _plain(r.probes)]
        writer.writerow([*cells, _plain(r.bytes), _plain(r.predicted), *times])
    return out.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")


# -- the chart ---------------------------------------------------------------------------------------------------------

_WIDE, _HIGH = 460, 340  # of a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 24, 64, 56


def svg(report: Report) -> str:
    """A panel for each kernel: services along, the cost of a new flow's first packet up, both logarithmic.

    Lines: predicted (without measurements: rules counted), of the last service and, dashed, of the first. Points: measured,
    filled for the last, hollow for the first service. An established flow is the dotted line at the bottom.
    """
    kernels = [k.name for k in report.kernels] or [""]
    width = len(kernels) * (_LEFT + _WIDE + _RIGHT)
    high = _TOP + _HIGH + _BOTTOM + 74
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{high}" viewBox="0 0 {width} {high}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{high}" fill="#fff"/>',
    ]
    ys = [v for row in report.rows for v in _values(row)]
    low, top = _decade(min(ys), math.floor), _decade(max(ys), math.ceil)
    for n, kernel in enumerate(kernels):
        release = next((k.release for k in report.kernels if k.name == kernel), "")
        title = KERNELS[kernel] + (f", Linux {release}" if release else "")
        mine = [row for row in report.rows if row.kernel == kernel]
        parts += _panel(mine, n * (_LEFT + _WIDE + _RIGHT) + _LEFT, low, top, title)
    engines = list(dict.fromkeys(row.engine for row in report.rows))
    x, y = _LEFT, _TOP + _HIGH + 52
    for engine in engines:
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x + 22}" y2="{y}" stroke="{COLOURS[engine]}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 28}" y="{y + 4}">{engine}</text>')
        x += 46 + 8 * len(engine)
    what = "lines: predicted; points: measured, with their spread" if report.kernels else "rules that the packet passes"
    parts.append(f'<text x="{_LEFT}" y="{y + 26}">{what}; solid and filled: the last service, dashed and hollow: the first; '
                 "dotted: an established flow</text>")
    parts.append(f'<text x="{_LEFT}" y="{y + 44}" fill="#616161">{html.escape(report.machine)}</text>')
    return "\n".join([*parts, "</svg>"])


def _values(row: Row) -> list[float]:
    if row.measured is None and row.predicted is None:
        return [max(row.rules, 1.0)]
    found = [row.predicted or 0.0, *([row.measured.low, row.measured.high] if row.measured else [])]
    return [max(value, 10.0) for value in found]


def _decade(value: float, rounded: object) -> int:
    return math.floor(math.log10(value)) if rounded is math.floor else math.ceil(math.log10(value * 1.001))


def _panel(rows: list[Row], left: int, low: int, top: int, title: str) -> list[str]:
    most = max([row.services for row in rows] + [10])
    decades = math.log10(most)

    def px(services: float) -> float:
        return left + math.log10(services) / decades * _WIDE

    def py(value: float) -> float:
        share = (math.log10(max(value, 10.0**low)) - low) / max(top - low, 1)
        return _TOP + _HIGH - share * _HIGH

    timed = any(row.predicted is not None for row in rows)
    parts = [f'<text x="{left}" y="28" font-size="14" font-weight="bold">{html.escape(title)}</text>']
    parts.append(f'<text x="{left}" y="{_TOP - 12}">{"time of a packet" if timed else "rules"}</text>')
    for power in range(low, top + 1):
        y = py(10.0**power)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + _WIDE}" y2="{y:.1f}" stroke="#e0e0e0"/>')
        label = _axis(10.0**power) if timed else f"{10**power:,}"
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for power in range(math.floor(decades) + 1):
        x = px(10.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_TOP + _HIGH}" stroke="#e0e0e0"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP + _HIGH + 16}" text-anchor="middle">{10**power:,}</text>')
    parts.append(f'<text x="{left + _WIDE / 2}" y="{_TOP + _HIGH + 32}" text-anchor="middle">services</text>')
    for engine in dict.fromkeys(row.engine for row in rows):
        for place, flow, style in (
            ("last", "new", ""), ("first", "new", "6 4"), (ANY, "established", "2 4"),
        ):  # fmt: skip
            series = sorted((r for r in rows if (r.engine, r.place, r.flow) == (engine, place, flow)), key=lambda r: r.services)
            parts += _series(series, COLOURS[engine], style, px, py)
    return parts


def _axis(ns: float) -> str:
    for unit, size in (("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:g} {unit}"
    return f"{ns:g} ns"


def _series(rows: list[Row], colour: str, style: str, px: object, py: object) -> list[str]:
    assert callable(px)
    assert callable(py)
    points = [(px(r.services), py(r.predicted if r.predicted is not None else r.rules)) for r in rows]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = f' stroke-dasharray="{style}"' if style else ""
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'] if len(points) > 1 else []
    for row in rows:
        if row.measured is None:
            continue
        x, y = px(row.services), py(row.measured.median)
        low, high = py(row.measured.low), py(row.measured.high)
        fill = colour if row.place == "last" else "#fff"
        size = 2.5 if row.flow == "established" else 4
        parts.append(f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
        about = f"{row.engine}, {row.services} services, {row.place}, {row.flow}: {_time(row.measured.median)}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{fill}" stroke="{colour}"><title>{about}</title></circle>'
        )
    return parts


def render(report: Report, form: str) -> str:
    """In the form of that name."""
    return {"text": text, "json": json, "csv": csv, "svg": svg}[form](report)
