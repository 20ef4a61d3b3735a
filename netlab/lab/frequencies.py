"""Random choices: does Linux make them as often as netlab says?

Law: one flow is sent many times, each time as a new connection; how often each predicted branch was taken is held against
its probability by Pearson's chi-squared test. A p below LIMIT is a disagreement: it happens by chance once in a million.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction
from statistics import NormalDist

import msgspec
from msgspec.structs import replace

from netlab.lab.host import Lab
from netlab.lab.verify import BATCH, fits, shot
from netlab.trace.flows import Flow, predict
from netlab.trace.query import Tracer
from netlab.trace.steps import IpvsStep, Proxied, RuleStep, Trace

LIMIT = 1e-6
FIRST_PORT = 22000  # source ports of its own: below those of verify.py


class Frequency(msgspec.Struct, frozen=True):
    """How often each branch of a flow was taken, `expected` how often it should have been; `other`: none of them."""

    flow: Flow
    endpoints: tuple[str, ...]
    expected: tuple[float, ...]
    counted: tuple[int, ...]
    other: int
    p: float

    @property
    def fits(self) -> bool:
        return self.other == 0 and self.p > LIMIT

    def __str__(self) -> str:
        parts = [f"{e} {n} of {x:.0f} expected" for e, n, x in zip(self.endpoints, self.counted, self.expected, strict=True)]
        other = f", {self.other} elsewhere" if self.other else ""
        verdict = "" if self.fits else " (differs)"
        return f"{self.flow}: {', '.join(parts)}{other}; chi-squared p = {self.p:.2g}{verdict}"


def choosing(tracer: Tracer, flows: Iterable[Flow], most: int) -> list[tuple[Flow, Trace]]:
    """The first flows whose branches can be told apart by their endpoint, one for each number of branches and destination.

    Not those in which what is remembered decides after the first time: session affinity (`-m recent --set`, `update @SET`,
    IPVS's persistence, that of the userspace mode), and IPVS's numbers of connections.
    """
    sticky = {
        listener.proxy.service
        for space in tracer.network.namespaces.values()
        for listener in space.listeners
        if listener.proxy is not None and listener.proxy.affinity is not None
    }
    found: dict[tuple[int, str], tuple[Flow, Trace]] = {}
    for flow in flows:
        if len(found) >= most:
            break
        if flow.protocol not in ("tcp", "udp"):
            continue
        trace = predict(tracer, flow, FIRST_PORT)
        endpoints = {branch.endpoint for branch in trace.branches if branch.verdict.value == "delivered"}
        if len(trace.branches) > 1 and len(endpoints) == len(trace.branches) and not _is_remembered(trace, sticky):
            found.setdefault((len(endpoints), flow.destination), (flow, trace))
    return list(found.values())


def _is_remembered(trace: Trace, sticky: Collection[str]) -> bool:
    for step in (step for branch in trace.branches for hop in branch.hops for step in hop.steps):
        if isinstance(step, RuleStep) and ("-m recent " in step.rule or "update @" in step.rule):
            return True
        if isinstance(step, IpvsStep) and (" -p " in step.service or (step.chance and step.scheduler not in ("rr", "wrr"))):
            return True
        if isinstance(step, Proxied) and step.service in sticky:
            return True
    return False


def frequencies(lab: Lab, chosen: Sequence[tuple[Flow, Trace]], times: int = 300) -> list[Frequency]:
    """Send each flow `times` times and count.

    Parameters
    ----------
    lab : Lab
        Made from the network that the traces were made of.
    chosen : sequence of (Flow, Trace)
        From `choosing`.
    times : int
        Connections per flow; at least five per branch make the test meaningful.
    """
    made = []
    for flow, trace in chosen:
        counted = [0] * len(trace.branches)
        other = 0
        for start in range(0, times, BATCH):
            shots = [shot(flow, trace, FIRST_PORT + n) for n in range(start, min(start + BATCH, times))]
            for again in (False, True):
                missed = []
                for sent, seen in zip(shots, lab.probe(shots), strict=True):
                    taken = next((n for n, branch in enumerate(trace.branches) if fits(branch, seen, False)), None)
                    if taken is not None:
                        counted[taken] += 1
                    elif not again and seen.result == "timeout":  # a busy machine: once more, with patience
                        missed.append(replace(sent, sport=sent.sport + times, timeout=3.0))
                    else:
                        other += 1
                if not missed:
                    break
                shots = missed
        expected = [float(branch.probability * times) for branch in trace.branches]
        endpoints = tuple(branch.endpoint or "" for branch in trace.branches)
        p = chi_squared_p(counted, [branch.probability for branch in trace.branches])
        made.append(Frequency(flow, endpoints, tuple(expected), tuple(counted), other, p))
    return made


def chi_squared_p(counted: Sequence[int], probabilities: Sequence[Fraction]) -> float:
    """How likely counts at least this far from the expected ones are (Pearson; the tail by Wilson and Hilferty, 1931).

    >>> round(chi_squared_p([50, 50], [Fraction(1, 2)] * 2), 2)
    1.0
    >>> chi_squared_p([100, 0], [Fraction(1, 2)] * 2) < 1e-6
    True
    """
    total, freedom = sum(counted), len(counted) - 1
    if not total or not freedom:
        return 1.0
    statistic = sum((n - float(total * p)) ** 2 / float(total * p) for n, p in zip(counted, probabilities, strict=True))
    if statistic == 0:
        return 1.0
    spread = 2 / (9 * freedom)
    return 1 - NormalDist().cdf(((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5)
