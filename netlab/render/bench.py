"""What a lookup costs, for people (text), for programs (json, csv); the chart is drawn in bench_chart.py.

Law: every form has the same rows.
"""

from __future__ import annotations

import csv as csvlib
import io
from collections.abc import Sequence

import msgspec

from netlab.bench.measure import PATIENCE
from netlab.bench.report import LARGE, Fit, Held, Kernel, Report, Row, Spread
from netlab.render.columns import table
from netlab.render.jsonio import API_VERSION

KERNELS = {"host": "the running kernel", "uml": "user-mode Linux", "": "counted by the model"}
_INCLUDES = """A time is that of a packet's whole way from the client's device to the endpoint's, minus the same way through a
node without rules: connection tracking, translation and rules. MEASURED is the median of all rounds, half of them lie WITHIN.
Packets of a burst follow each other (warm caches)."""
_COUNTED = """RULES are looked at for one packet, the first of a new flow or one of an established flow; BYTES is their size in
iptables-legacy; ASKED are extensions of iptables (-m), PROBES look-ups in sets, maps, IPVS. Means, where an endpoint is drawn."""


_ONCE = "once"


def text(report: Report) -> str:
    """Tables of packets and of what the node holds, then the formula and its error."""
    lines = [heading(report)]
    for kernel in report.kernels:
        lines.append(_kernel(kernel, report.rounds))
    lines += ["", *_packets(report.rows), *_COUNTED.splitlines(), "", *_nodes(report.held)]
    if report.fits:
        lines += ["", *_formula(report), "", _INCLUDES]
    return "\n".join(lines)


def heading(report: Report) -> str:
    """What the rules are of, and the machine, if anything was measured on it."""
    return "; ".join([setting(report), *([report.machine] if report.kernels else [])])


def setting(report: Report) -> str:
    with_policies = f", {_many(report.policies, 'policy', 'policies')} on the client" if report.policies else ""
    return f"{_many(report.endpoints, 'endpoint')} a service{with_policies}"


def _kernel(kernel: Kernel, rounds: int) -> str:
    lost = f"; {kernel.lost} packets did not arrive" if kernel.lost > 0 else ""
    return (
        f"{kernel.name}: {KERNELS[kernel.name]}, Linux {kernel.release}; {_many(rounds, 'round')}, {kernel.bursts:,} bursts, "
        f"{kernel.disturbed:,} interrupted and thrown away{lost}; without rules {time(kernel.baseline.median)}"
    )


def _packets(rows: Sequence[Row]) -> list[str]:
    measured = any(row.measured is not None for row in rows)
    head = ["ENGINE", "SERVICES", "SERVICE", "FLOW", "RULES", "ASKED", "PROBES", "BYTES"]
    head = ["KERNEL", *head, "PREDICTED", "MEASURED", "WITHIN", "ERROR"] if measured else head
    body = []
    for row in rows:
        counts = [_number(row.rules), _number(row.asked), _number(row.probes)]
        cells = [row.engine, f"{row.services:,}", row.place, row.flow, *counts]
        cells.append("-" if row.bytes is None else f"{row.bytes:,.0f}")
        if measured:
            error = "-" if row.error is None else f"{100 * row.error:+.0f} %"
            middle = row.measured.median if row.measured else None
            cells = [row.kernel, *cells, time(row.predicted), time(middle), _within(row.measured), error]
        body.append(cells)
    return table([head, *body])


def _nodes(held: Sequence[Held]) -> list[str]:
    if all(one.load is None for one in held):
        counts = [[h.engine, f"{h.services:,}", f"{h.rules:,}"] for h in held]
        return table([["ENGINE", "SERVICES", "RULES ON THE NODE"], *counts])
    head = ["KERNEL", "ENGINE", "SERVICES", "RULES ON THE NODE", "LOAD", "WITHIN", "UPDATE OF ONE", "WITHIN", "MEMORY"]
    rows = []
    for h in held:
        cells = [h.kernel, h.engine, f"{h.services:,}", f"{h.rules:,}"]
        for one in (h.load, h.update):
            cells += [time(one.median * 1e9 if one else None), _within(one, 1e9)]
        if h.transactions > 1:
            cells[4] += "*"
        memory = "-" if h.memory is None else f"{'' if h.exact else '~'}{h.memory / 1e6:.2f} MB"
        rows.append([*cells, memory])
    lines = table([head, *rows])
    if any(h.transactions > 1 for h in held):
        lines.append("* in several transactions: the time of one grows with the square of the services (docs/performance.md)")
    if any(_ONCE in row for row in rows):
        lines.append(f"{_ONCE}: what takes longer than {PATIENCE:g} s is not repeated")
    lines.append("MEMORY: the kernel's own word for tables of iptables-legacy; ~ by what is missing in /proc/meminfo afterwards.")
    return lines


def _formula(report: Report) -> list[str]:
    lines = ["Predicted from yardsticks measured in the same rounds: rules of known number that are not kube-proxy's."]
    head = ["KERNEL", "ENGINE", "NEW FLOW", "ESTABLISHED", "A RULE", "BEYOND L2", "ASKED", "PROBE", "ERROR", "WORST"]
    rows = [[fit.kernel, fit.engine, *_costs(fit), _share(fit.median_error), _share(fit.worst_error)] for fit in report.fits]
    cache = f"{report.cache >> 10} KiB" if report.cache else "taken for 512 KiB, for /sys does not tell"
    lines += table([head, *rows])
    edges = next(((f.far_low, f.far_high) for f in report.fits if f.far_low is not None and f.far_high is not None), None)
    if edges is not None:
        where = f"begins at {edges[0] / 1024:,.0f} KiB of rules walked, whole at {edges[1] / 1024:,.0f} KiB"
        lines.append(f"Level 2 cache: {cache}. BEYOND L2: what a rule costs more: {where}.")
    lines.append(
        f"ERROR: median and worst of new flows at the first, middle and last service, from {LARGE:,} services on if any."
    )
    return lines


def _costs(fit: Fit) -> list[str]:
    return [time(fit.new), time(fit.established), *map(_small, (fit.per_rule, fit.per_far_rule, fit.per_asked, fit.per_probe))]


def _many(count: int, what: str, plural: str = "") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {plural or what + 's'}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ns"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def time(ns: float | None) -> str:
    """Nanoseconds in a unit that suits.

    >>> time(950), time(12_345), time(2_500_000_000)
    ('0.95 us', '12.3 us', '2.50 s')
    """
    if ns is None:
        return "-"
    unit, size = next(((unit, size) for unit, size in (("s", 1e9), ("ms", 1e6)) if abs(ns) >= size), ("us", 1e3))
    value = ns / size
    return f"{value:.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f} {unit}"


def _within(spread: Spread | None, factor: float = 1.0) -> str:
    if spread is None:
        return "-"
    return _ONCE if spread.low == spread.high else f"{time(spread.low * factor)} - {time(spread.high * factor)}"


def json(report: Report) -> str:
    """The report as JSON: times of packets in nanoseconds, of loads and updates in seconds, memory in bytes."""
    plain = {"apiVersion": API_VERSION, "kind": "Bench", **msgspec.to_builtins(report)}
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()


def csv(report: Report) -> str:
    """A line a row: nanoseconds a packet."""
    out = io.StringIO()
    writer = csvlib.writer(out, lineterminator="\n")
    head = ["kernel", "engine", "services", "endpoints", "policies", "place", "flow", "rules", "asked", "probes", "bytes"]
    writer.writerow([*head, "predicted_ns", "median_ns", "low_ns", "high_ns", "least_ns"])
    for r in report.rows:
        m = r.measured
        times = [_plain(v) for v in (m.median, m.low, m.high, m.least)] if m is not None else [""] * 4
        cells = [r.kernel, r.engine, r.services, report.endpoints, report.policies, r.place, r.flow]
        writer.writerow([*cells, *map(_plain, (r.rules, r.asked, r.probes, r.bytes, r.predicted)), *times])
    return out.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")


def render(report: Report, form: str) -> str:
    """In the form of that name."""
    return {"text": text, "json": json, "csv": csv}[form](report)
