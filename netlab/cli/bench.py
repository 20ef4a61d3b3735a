"""`netlab bench`: what a lookup costs in each of kube-proxy's modes, predicted and measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from netlab.cli.flags import OUTPUT, emit
from netlab.errors import InputError

if TYPE_CHECKING:
    from netlab.bench.measure import Job, Measured

BENCH = Group("Bench", sort_key=0)
_MOST_ROUNDS = 1000


def bench(
    *,
    services: Annotated[
        str, Parameter(group=BENCH, metavar="N[,N...]", help="Numbers of services. 20000 and 50000 take minutes and gigabytes.")
    ] = "1,10,100,1000,5000,10000",
    endpoints: Annotated[int, Parameter(group=BENCH, metavar="K", help="Endpoints of each service.")] = 1,
    engine: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(), group=BENCH, metavar="ENGINE", help="iptables-legacy, iptables-nft, nftables or ipvs. Repeatable; all."
        ),
    ] = (),
    kernel: Annotated[
        Literal["both", "host", "uml", "none"],
        Parameter(
            group=BENCH,
            help="Whom to measure: the running kernel (host), user-mode Linux (uml), which has IPVS, or both; none: only count.",
        ),
    ] = "both",
    rounds: Annotated[int, Parameter(group=BENCH, metavar="R", help="Rounds in which all are measured in turn.")] = 5,
    output: Annotated[
        Literal["text", "json", "csv", "svg"], Parameter(alias="-o", group=OUTPUT, help="svg is the chart, with log axes.")
    ] = "text",
    save: Annotated[
        str | None,
        Parameter(group=OUTPUT, metavar="FILE", help="Write there instead of printing: .json, .csv, .svg choose the form."),
    ] = None,
    quiet: Annotated[bool, Parameter(alias="-q", negative=(), group=OUTPUT, help="No progress on stderr.")] = False,
) -> int:
    """What a lookup costs: rules, probes and bytes counted; time, loads, updates and memory measured.

    A node gets the rules of kube-proxy for N services, and packets are sent to the first, the middle and the last of them: the
    first of a new flow, and one of an established flow. What is predicted comes from yardsticks measured in the same run.

    For example:
      netlab bench
      netlab bench --kernel none --services 1000,50000 --endpoints 3
      netlab bench --kernel host --engine iptables-legacy --engine nftables --save cost.svg
    """
    from netlab.bench.measure import Job

    numbers = _numbers(services, endpoints)
    if not 1 <= rounds <= _MOST_ROUNDS:
        raise InputError(f"--rounds {rounds}: there must be 1 to {_MOST_ROUNDS}")
    form = _form(output, save)
    if save is not None:
        with open(save, "a"):  # before minutes of work: can it be written?
            pass
    jobs = [(where, Job(numbers, endpoints, engines, rounds)) for where, engines in _engines(kernel, engine).items()]
    from netlab.bench.measure import machine, second_level_cache
    from netlab.bench.report import report
    from netlab.render.bench import render

    measured = [_measure(where, job, quiet) for where, job in jobs if where]
    made = render(report(jobs[0][1], measured, machine(), second_level_cache()), form)
    if save is None:
        emit(made)
    else:
        Path(save).write_text(made if made.endswith("\n") else made + "\n")
    return 0


def _numbers(text: str, endpoints: int) -> tuple[int, ...]:
    from netlab.bench.site import MAX_ENDPOINTS, MAX_SERVICES

    found = []
    for word in text.split(","):
        if not word.strip().isdecimal():
            raise InputError(f'--services: "{word}" is no number', hint="write --services 1,100,10000")
        found.append(int(word))
    if not 1 <= endpoints <= MAX_ENDPOINTS:
        raise InputError(f"--endpoints {endpoints}: a service has 1 to {MAX_ENDPOINTS:,}")
    for number in found:
        if number < 1:
            raise InputError("--services 0: without a service there is no lookup", hint="the least is 1")
        if number > MAX_SERVICES:
            raise InputError(f"--services {number}: there are at most {MAX_SERVICES:,}")
        if number * endpoints > MAX_ENDPOINTS:
            raise InputError(f"{number} services of {endpoints} endpoints: there are at most {MAX_ENDPOINTS:,} endpoints in all")
    return tuple(sorted(set(found)))


def _form(output: str, save: str | None) -> str:
    suffix = Path(save).suffix.removeprefix(".") if save is not None else ""
    return suffix if suffix in ("json", "csv", "svg") and output == "text" else output


def _engines(kernel: str, named: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Which engines on which kernel; "" stands for none, where everything is only counted."""
    from netlab.bench.measure import ENGINES
    from netlab.bench.site import MODES
    from netlab.errors import did_you_mean

    for name in named:
        if name not in MODES:
            raise InputError(f'unknown engine "{name}"', hint=did_you_mean(name, MODES) or f"one of {', '.join(MODES)}")
    wanted = tuple(name for name in MODES if not named or name in named)
    if kernel == "none":
        return {"": wanted}
    found: dict[str, tuple[str, ...]] = {}
    for where in ("host", "uml") if kernel == "both" else (kernel,):
        can = tuple(name for name in wanted if name in ENGINES[where])
        if can:
            found[where] = can
    if not found:
        other = "uml" if kernel == "host" else "host"
        raise InputError(f"{' and '.join(wanted)} cannot be measured on {kernel}", hint=f"--kernel {other} can")
    if "uml" in found:
        from netlab.lab import uml

        packages = uml.missing()
        if packages:
            without = "--kernel host measures without it" if "host" in found else "--kernel none only counts"
            raise InputError("user-mode Linux is not installed", hint=f"apt-get install {' '.join(packages)}; {without}")
    if "host" in found:
        from netlab.lab.umlchoice import lacks

        missing, trouble = lacks({"veth", *found["host"]})
        if trouble or missing:
            what = trouble or f"the running kernel has no {', '.join(sorted(missing))}"
            raise InputError(what, hint="run as root, or where user namespaces are allowed; --kernel none only counts")
    return found


def _measure(where: str, job: Job, quiet: bool) -> Measured:
    from netlab.bench.inside import perform_in_uml
    from netlab.bench.measure import perform

    told = _Progress(where, quiet)
    try:
        return perform(job, where, told) if where == "host" else perform_in_uml(job, told)
    finally:
        told("")


class _Progress:
    """A line on a terminal that changes; silence anywhere else."""

    def __init__(self, where: str, quiet: bool) -> None:
        self.where, self.silent = where, quiet or not sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if not self.silent:
            print(f"\r\x1b[K{self.where}: {text}" if text else "\r\x1b[K", end="", file=sys.stderr, flush=True)
