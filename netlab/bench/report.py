"""Model and kernel side by side: every row counted, predicted and measured, and how far prediction and measurement are apart.

    ns = a + b x rules + c x rules beyond the level 2 cache + d x extensions asked + e x sets probed     iptables
    ns = a + b x rules + e x sets and maps probed                                                            nftables

Law: a to e are fitted to the yardsticks (yard.py) of the same machine and run, never to the rows that they predict. A
walk over more bytes than the cache holds finds nothing of the last walk there: not the bytes beyond cost more then, but all. What
nobody has measured is None. A row of an established flow stands for all services: no rule of a service is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from statistics import median, quantiles
from typing import Final

import msgspec

from netlab.bench.measure import Contender, Holding, Job, Measured, Sample

ANY: Final = "any"  # the place of an established flow's service
LARGE: Final = 1_000  # services from which on the error is told: below, the constant part decides
_DEFAULT_CACHE: Final = 512 << 10  # bytes, where /sys does not tell


class Spread(msgspec.Struct, frozen=True, rename="camel"):
    """Median of the rounds; half of them lie between `low` and `high` (of fewer than five, all); the least."""

    median: float
    low: float
    high: float
    least: float


class Row(msgspec.Struct, frozen=True, rename="camel"):
    """One packet to one service. `kernel` "host", "uml", or "" where nothing is measured; times in nanoseconds a packet."""

    kernel: str
    engine: str
    services: int
    place: str
    flow: str
    rules: float
    asked: float
    probes: float
    bytes: float | None
    predicted: float | None = None
    measured: Spread | None = None
    error: float | None = None  # of the prediction, as a share of what was measured


class Held(msgspec.Struct, frozen=True, rename="camel"):
    """What a node holds: rules; seconds to load all, to update one service; bytes, `exact` where the kernel tells them."""

    kernel: str
    engine: str
    services: int
    rules: int
    load: Spread | None = None
    transactions: int = 1  # of nft, in which all was loaded
    update: Spread | None = None
    memory: float | None = None
    exact: bool = False


class Fit(msgspec.Struct, frozen=True, rename="camel"):
    """What things cost in nanoseconds; None: not part of this engine's formula. A rule is `per_far_rule` dearer where more than
    `far_high` bytes are walked, and not at all up to `far_low`. Errors are shares of what was measured."""

    kernel: str
    engine: str
    new: float
    established: float
    per_rule: float | None = None
    per_far_rule: float | None = None
    per_asked: float | None = None
    per_probe: float | None = None
    far_low: float | None = None
    far_high: float | None = None
    median_error: float | None = None
    worst_error: float | None = None


class Kernel(msgspec.Struct, frozen=True, rename="camel"):
    """A kernel that was measured; `baseline` nanoseconds for a packet through a node without rules."""

    name: str
    release: str
    baseline: Spread
    bursts: int
    disturbed: int
    lost: int


class Report(msgspec.Struct, frozen=True, rename="camel"):
    """Everything that `netlab bench` says. `cache`: bytes of the level 2 cache."""

    endpoints: int
    policies: int
    rounds: int
    machine: str
    cache: int | None
    rows: tuple[Row, ...]
    held: tuple[Held, ...]
    fits: tuple[Fit, ...] = ()
    kernels: tuple[Kernel, ...] = ()


def counted(kernel: str, contenders: Sequence[Contender]) -> tuple[list[Row], list[Held]]:
    """The model alone: rows and what the node holds, without any time."""
    rows, held = [], []
    for one in contenders:
        if not one.services:
            continue
        held.append(Held(kernel, one.engine, one.services, one.rules))
        for place, flow, n in one.counts:
            size = None if n.bytes is None or one.engine == "iptables-nft" else float(n.bytes)
            counts = (float(n.rules), float(n.asked), float(n.probes), size)
            rows.append(Row(kernel, one.engine, one.services, place, flow, *counts))
    return _one_established(rows), held


def report(job: Job, contenders: Sequence[Contender], measured: Sequence[Measured], machine: str, cache: int | None) -> Report:
    """Put what was measured beside what is predicted; without measurements only counts."""
    about = (job.load.endpoints, job.load.policies, job.rounds if measured else 0, machine, cache)
    if not measured:
        rows, held = counted("", contenders)
        return Report(*about, tuple(rows), tuple(held))
    rows, held, fits = [], [], []
    for each in measured:
        made = {fit.engine: fit for fit in _fits(each, cache or _DEFAULT_CACHE)}
        fresh = _one_established([_row(each.kernel, sample, made[sample.engine]) for sample in each.samples if sample.services])
        fresh = [msgspec.structs.replace(row, error=_error(row)) for row in fresh]
        fits += [_with_error(fit, fresh) for fit in made.values()]
        rows += fresh
        held += [_held(each.kernel, one) for one in each.holdings]
    kernels = tuple(Kernel(m.kernel, m.release, spread(m.baseline), m.bursts, m.disturbed, m.lost) for m in measured)
    return Report(*about, tuple(rows), tuple(held), tuple(fits), kernels)


def spread(values: Sequence[float]) -> Spread:
    """Median, first and third quartile, the least.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0, least=1.0)
    """
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 4 else (min(values), 0.0, max(values))
    return Spread(median(values), low, high, min(values))


def _one_established(rows: list[Row]) -> list[Row]:
    """Of an established flow's rows, which are alike at every place, one: the median of all, behind those of new flows."""
    made: list[Row] = []
    for _, of_one in groupby(rows, lambda row: (row.kernel, row.engine, row.services)):
        group = list(of_one)
        alike = [row for row in group if row.flow == "established"]
        made += [row for row in group if row.flow == "new"]
        seen = [row.measured for row in alike if row.measured is not None]
        made.append(msgspec.structs.replace(alike[0], place=ANY, measured=_together(seen) if seen else None))
    return made


def _together(seen: Sequence[Spread]) -> Spread:
    return Spread(median(s.median for s in seen), min(s.low for s in seen), max(s.high for s in seen), min(s.least for s in seen))


# -- the formula -------------------------------------------------------------------------------------------------------


def _far(size: float | None, low: float, high: float) -> float:
    """The share of a walk that does not come from the level 2 cache, by the bytes that it walks over."""
    return min(1.0, max(0.0, ((size or 0.0) - low) / (high - low)))


def _fits(measured: Measured, cache: int) -> Iterable[Fit]:
    """An engine after the other, from its yardsticks. IPVS: its own constant, and rules as in iptables-legacy."""
    legacy: Fit | None = None
    for engine in dict.fromkeys(sample.engine for sample in measured.samples):
        yards = [s for s in measured.samples if s.engine == engine and not s.services]
        established = median(median(s.ns) for s in yards if s.kind == "established")
        fresh = [s for s in yards if s.kind == "new"]
        times = [median(s.ns) for s in fresh]
        match engine:
            case "ipvs":
                ipvs = Fit(measured.kernel, engine, times[0], established)
                if legacy is not None:
                    ipvs = msgspec.structs.replace(legacy, engine=engine, new=times[0], established=established)
                yield ipvs
            case "nftables":
                (new, rule, probe), _ = _solve([[1.0, s.rules, s.probes] for s in fresh], times)
                yield Fit(measured.kernel, engine, new, established, per_rule=rule, per_probe=probe)
            case _:
                made = _iptables(measured.kernel, engine, fresh, times, cache if engine == "iptables-legacy" else None)
                # an established flow is not translated anew: its constant is that of its own packets, without their rules
                rest = [
                    median(s.ns) - s.rules * (made.per_rule or 0.0) - s.asked * (made.per_asked or 0.0)
                    for s in yards
                    if s.kind == "established"
                ]
                made = msgspec.structs.replace(made, established=max(0.0, median(rest)))
                if engine == "iptables-legacy":
                    legacy = made
                yield made


def _iptables(kernel: str, engine: str, fresh: Sequence[Sample], times: list[float], cache: int | None) -> Fit:
    """Where the cache counts, the place at which it is full is found by trying: it is shared with the packets themselves."""
    best: tuple[float, Fit] | None = None
    for low, high in _edges(cache):
        terms = [[1.0, s.rules, s.asked, s.probes, s.rules * _far(s.bytes, low, high) if cache else 0.0] for s in fresh]
        (new, rule, asked, probe, far), wrong = _solve(terms, times)
        probes = probe if any(s.probes for s in fresh) else None
        fit = Fit(kernel, engine, new, 0.0, per_rule=rule, per_asked=asked, per_probe=probes)
        if cache:
            fit = msgspec.structs.replace(fit, per_far_rule=far, far_low=low, far_high=high)
        if best is None or wrong < best[0]:
            best = (wrong, fit)
    assert best is not None
    return best[1]


def _edges(cache: int | None) -> Iterator[tuple[float, float]]:
    if cache is None:
        yield 0.0, 1.0
        return
    for low in (0.25, 0.35, 0.5, 0.7, 1.0):
        for width in (1.2, 1.5, 2.0, 3.0):
            yield low * cache, low * width * cache


def _solve(terms: list[list[float]], times: list[float]) -> tuple[list[float], float]:
    """Least squares of relative errors; costs that are not negative (a term that would be is left out); what is left over."""
    import numpy as np

    used = list(range(len(terms[0])))
    weights = np.array([1 / max(time, 1.0) for time in times])
    used = [k for k in used if any(row[k] for row in terms)]
    while True:
        matrix = np.array([[row[k] for k in used] for row in terms]) * weights[:, None]
        found = np.linalg.lstsq(matrix, np.array(times) * weights, rcond=None)[0]
        if all(cost >= 0 for cost in found) or len(used) == 1:
            costs = [0.0] * len(terms[0])
            for k, cost in zip(used, found, strict=True):
                costs[k] = float(cost)
            return costs, float(np.sum((matrix @ found - np.array(times) * weights) ** 2))
        used.remove(used[int(np.argmin(found))])


def predict(fit: Fit, flow: str, rules: float, asked: float, probes: float, size: float | None) -> float:
    """Nanoseconds of a packet by the formula."""
    found = (fit.new if flow == "new" else fit.established) + rules * (fit.per_rule or 0.0) + asked * (fit.per_asked or 0.0)
    if fit.far_low is not None and fit.far_high is not None:
        found += rules * (fit.per_far_rule or 0.0) * _far(size, fit.far_low, fit.far_high)
    return found + probes * (fit.per_probe or 0.0)


def _row(kernel: str, s: Sample, fit: Fit) -> Row:
    mixed = s.engine == "nftables" and s.asked > 0  # Calico's rules beside those of nftables mode: no yardstick is both
    guess = None if mixed else predict(fit, s.kind, s.rules, s.asked, s.probes, s.bytes)
    size = None if s.engine == "iptables-nft" else s.bytes
    return Row(kernel, s.engine, s.services, s.position, s.kind, s.rules, s.asked, s.probes, size, guess, spread(s.ns))


def _error(row: Row) -> float | None:
    if row.measured is None or row.predicted is None or row.measured.median <= 0:
        return None
    return row.predicted / row.measured.median - 1


def _with_error(fit: Fit, rows: list[Row]) -> Fit:
    """The error of new flows; where there are enough services, of many services only."""
    mine = [row for row in rows if row.engine == fit.engine and row.flow == "new"]
    chosen = [row for row in mine if row.services >= LARGE] or mine
    errors = [abs(row.error) for row in chosen if row.error is not None]
    if not errors:
        return fit
    return msgspec.structs.replace(fit, median_error=median(errors), worst_error=max(errors))


def _held(kernel: str, h: Holding) -> Held:
    exact = h.entries is not None
    grown = [size for size in h.memory if size > 0]
    memory = float(h.entries) if h.entries is not None else float(median(grown)) if grown else None
    return Held(kernel, h.engine, h.services, h.rules, spread(h.load), h.transactions, spread(h.update), memory, exact)
