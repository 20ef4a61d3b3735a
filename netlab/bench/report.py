"""Model and kernel side by side: every row counted, predicted and measured, and how far prediction and measurement are apart.

    ns = a + b x rules + c x bytes beyond the processor's level 2 cache + d x probes

Law: a, b, c and d are fitted to the yardsticks (yard.py) of the same machine and run, never to the rows that they predict. What
nobody has measured is None. A row of an established flow stands for all services: no rule of a service is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Final

import msgspec

from netlab.bench.count import count
from netlab.bench.measure import Holding, Job, Measured, Sample, positions, rules_of
from netlab.bench.site import cluster, service_ip, site

ANY: Final = "any"  # the place of an established flow's service
LARGE: Final = 1_000  # services from which on the error is told: below, the constant part decides
_DEFAULT_CACHE: Final = 512 << 10  # bytes, where /sys does not tell


class Spread(msgspec.Struct, frozen=True, rename="camel"):
    """Median, least and greatest of the runs."""

    median: float
    low: float
    high: float


class Row(msgspec.Struct, frozen=True, rename="camel"):
    """One packet to one service. `kernel` "host", "uml", or "" where nothing is measured; times in nanoseconds a packet."""

    kernel: str
    engine: str
    services: int
    place: str
    flow: str
    rules: float
    probes: float
    bytes: float | None
    predicted: float | None = None
    measured: Spread | None = None


class Held(msgspec.Struct, frozen=True, rename="camel"):
    """What a node holds: rules; seconds to load all, to update one service; bytes, `exact` where the kernel tells them."""

    kernel: str
    engine: str
    services: int
    rules: int
    load: Spread | None = None
    update: Spread | None = None
    memory: float | None = None
    exact: bool = False


class Fit(msgspec.Struct, frozen=True, rename="camel"):
    """What things cost in nanoseconds; None: not part of this engine's formula. Errors are shares of what was measured."""

    kernel: str
    engine: str
    new: float
    established: float
    per_rule: float | None = None
    per_far_byte: float | None = None
    per_probe: float | None = None
    median_error: float | None = None
    worst_error: float | None = None


class Kernel(msgspec.Struct, frozen=True, rename="camel"):
    """A kernel that was measured; `baseline` nanoseconds for a packet through a node without rules."""

    name: str
    release: str
    baseline: Spread
    bursts: int
    disturbed: int


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """Everything that `netlab bench` says. `cache`: bytes of the level 2 cache."""

    endpoints: int
    rounds: int
    machine: str
    cache: int | None
    rows: tuple[Row, ...]
    held: tuple[Held, ...]
    fits: tuple[Fit, ...] = ()
    kernels: tuple[Kernel, ...] = ()


def counted(job: Job) -> tuple[list[Row], list[Held]]:
    """The model alone: rows and what the node holds, without any time."""
    rows, held = [], []
    for services in job.services:
        for engine in job.engines:
            network = site(cluster(services, job.endpoints, engine), engine)
            held.append(Held("", engine, services, rules_of(network)))
            for place, number in positions(services):
                counts = count(network, service_ip(number))
                for flow, n in (("new", counts.new), ("established", counts.established)):
                    size = None if n.bytes is None or engine == "iptables-nft" else float(n.bytes)
                    rows.append(Row("", engine, services, place, flow, float(n.rules), float(n.probes), size))
    return _one_established(rows), held


def report(job: Job, measured: Sequence[Measured], machine: str, cache: int | None) -> Report:
    """Put what was measured beside what is predicted; without measurements only counts."""
    if not measured:
        rows, held = counted(job)
        return Report(job.endpoints, 0, machine, cache, tuple(rows), tuple(held))
    rows, held, fits = [], [], []
    for each in measured:
        far = cache or _DEFAULT_CACHE
        made = {fit.engine: fit for fit in _fits(each, far)}
        fresh = [_row(each.kernel, sample, made[sample.engine], far) for sample in each.samples if sample.services]
        fresh = _one_established(fresh)
        fits += [_with_error(fit, fresh) for fit in made.values()]
        rows += fresh
        held += [_held(each.kernel, one) for one in each.holdings]
    kernels = tuple(Kernel(m.kernel, m.release, spread(m.baseline), m.bursts, m.disturbed) for m in measured)
    return Report(job.endpoints, job.rounds, machine, cache, tuple(rows), tuple(held), tuple(fits), kernels)


def spread(values: Sequence[float]) -> Spread:
    """Median, least and greatest.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0)
    """
    return Spread(median(values), min(values), max(values))


def _one_established(rows: list[Row]) -> list[Row]:
    """Of an established flow's rows, which are alike at every place, one: the median of all."""
    made: list[Row] = []
    for row in rows:
        if row.flow == "new":
            made.append(row)
            continue
        alike = [r for r in rows if (r.kernel, r.engine, r.services, r.flow) == (row.kernel, row.engine, row.services, row.flow)]
        if row is not alike[0]:
            continue
        seen = [r.measured for r in alike if r.measured is not None]
        together = Spread(median(s.median for s in seen), min(s.low for s in seen), max(s.high for s in seen)) if seen else None
        made.append(msgspec.structs.replace(row, place=ANY, measured=together))
    return made


# -- the formula -------------------------------------------------------------------------------------------------------


def _terms(engine: str, rules: float, probes: float, size: float | None, far: int) -> list[float]:
    match engine:
        case "iptables-legacy" | "ipvs":
            return [1.0, rules, max(0.0, (size or 0.0) - far)]
        case "nftables":
            return [1.0, rules, probes]
        case _:
            return [1.0, rules]


def _fits(measured: Measured, far: int) -> Iterable[Fit]:
    """Least squares of relative errors over an engine's yardsticks. IPVS: its own constant, and rules as in iptables-legacy."""
    legacy: Fit | None = None
    for engine in dict.fromkeys(sample.engine for sample in measured.samples):
        yards = [s for s in measured.samples if s.engine == engine and not s.services]
        established = median(median(s.ns) for s in yards if s.kind == "established")
        fresh = [s for s in yards if s.kind == "new"]
        if engine == "ipvs":
            constant = median(fresh[0].ns)
            rule = legacy.per_rule if legacy is not None else None
            yield Fit(measured.kernel, engine, constant, established, rule, legacy.per_far_byte if legacy is not None else None)
            continue
        costs = _solve([_terms(engine, s.rules, s.probes, s.bytes, far) for s in fresh], [median(s.ns) for s in fresh])
        third = costs[2] if len(costs) > 2 else None
        nft = engine == "nftables"
        made = Fit(measured.kernel, engine, costs[0], established, costs[1], None if nft else third, third if nft else None)
        if engine == "iptables-legacy":
            legacy = made
        yield made


def _solve(terms: list[list[float]], times: list[float]) -> list[float]:
    """Costs that are not negative: a term that would be is left out."""
    import numpy as np

    used = list(range(len(terms[0])))
    weights = np.array([1 / max(time, 1.0) for time in times])
    while True:
        matrix = np.array([[row[k] for k in used] for row in terms]) * weights[:, None]
        found = np.linalg.lstsq(matrix, np.array(times) * weights, rcond=None)[0]
        if all(cost >= 0 for cost in found) or len(used) == 1:
            costs = [0.0] * len(terms[0])
            for k, cost in zip(used, found, strict=True):
                costs[k] = float(cost)
            return costs
        used.remove(used[int(np.argmin(found))])


def predict(fit: Fit, engine: str, flow: str, rules: float, probes: float, size: float | None, far: int) -> float:
    """Nanoseconds of a packet by the formula."""
    constant = fit.new if flow == "new" else fit.established
    found = _terms(engine, rules, probes, size, far)
    third = fit.per_probe if engine == "nftables" else fit.per_far_byte
    return constant + found[1] * (fit.per_rule or 0.0) + (found[2] * (third or 0.0) if len(found) > 2 else 0.0)


def _row(kernel: str, s: Sample, fit: Fit, far: int) -> Row:
    guess = predict(fit, s.engine, s.kind, s.rules, s.probes, s.bytes, far)
    size = None if s.engine == "iptables-nft" else s.bytes
    return Row(kernel, s.engine, s.services, s.position, s.kind, s.rules, s.probes, size, guess, spread(s.ns))


def _with_error(fit: Fit, rows: list[Row]) -> Fit:
    """The error of new flows; where there are enough services, of many services only."""
    mine = [row for row in rows if row.engine == fit.engine and row.flow == "new"]
    chosen = [row for row in mine if row.services >= LARGE] or mine
    errors = [
        abs((row.predicted or 0.0) / row.measured.median - 1)
        for row in chosen
        if row.measured is not None and row.measured.median > 0
    ]
    if not errors:
        return fit
    return msgspec.structs.replace(fit, median_error=median(errors), worst_error=max(errors))


def _held(kernel: str, h: Holding) -> Held:
    exact = h.entries is not None
    grown = [size for size in h.memory if size > 0]
    memory = float(h.entries) if h.entries is not None else float(median(grown)) if grown else None
    return Held(kernel, h.engine, h.services, h.rules, spread(h.load), spread(h.update), memory, exact)
