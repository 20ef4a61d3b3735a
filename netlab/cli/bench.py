"""`netlab bench`: what a lookup costs in each of kube-proxy's modes, predicted and measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from netlab.cli.flags import OUTPUT, Whole, emit
from netlab.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netlab.bench.measure import Job

BENCH = Group("Bench", sort_key=0)
_MOST_ROUNDS = 1000
_MOST_POLICIES = 10_000
_TOOLS = {
    "iptables-legacy": ("iptables-legacy-restore",),
    "iptables-nft": ("iptables-nft-restore",),
    "nftables": ("nft", "iptables-nft-restore"),
    "ipvs": ("ipvsadm", "ipset", "iptables-legacy-restore"),
}


def bench(
    *,
    services: Annotated[
        str, Parameter(group=BENCH, metavar="N[,N...]", help="Numbers of services.")
    ] = "1,10,100,1000,5000,10000",
    full: Annotated[
        bool, Parameter(negative=(), group=BENCH, help="Measure 20,000 and 50,000 services, too: some ten minutes and gigabytes.")
    ] = False,
    endpoints: Annotated[Whole, Parameter(group=BENCH, metavar="K", help="Endpoints of each service.")] = 1,
    policies: Annotated[
        Whole,
        Parameter(
            group=BENCH, metavar="P", help="Network policies of the client, as Calico renders them; the last one lets it through."
        ),
    ] = 0,
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
    rounds: Annotated[Whole, Parameter(group=BENCH, metavar="R", help="Rounds in which all are measured in turn.")] = 20,
    output: Annotated[
        Literal["text", "json", "csv"], Parameter(alias="-o", group=OUTPUT, help="How to print the figures.")
    ] = "text",
    chart: Annotated[
        str | None, Parameter(group=OUTPUT, metavar="FILE", help="Draw a chart, too: FILE.svg, FILE.png or FILE.html.")
    ] = None,
    quiet: Annotated[bool, Parameter(alias="-q", negative=(), group=OUTPUT, help="No progress on stderr.")] = False,
) -> int:
    """What a lookup costs: rules, probes and bytes counted; time, loads, updates and memory measured.

    A node gets the rules of kube-proxy for N services, and packets are sent to the first, the middle and the last of them: the
    first of a new flow, and one of an established flow. What is predicted comes from yardsticks measured in the same run.

    For example:
      netlab bench
      netlab bench --kernel none --services 1000,50000 --endpoints 3
      netlab bench --kernel host --engine iptables-legacy --engine nftables --chart cost.svg
    """
    numbers = _numbers(f"{services},20000,50000" if full else services, endpoints)
    if not 1 <= rounds <= _MOST_ROUNDS:
        raise InputError(f"--rounds {rounds}: there must be 1 to {_MOST_ROUNDS}")
    if not 0 <= policies <= _MOST_POLICIES:
        raise InputError(f"--policies {policies}: there must be 0 to {_MOST_POLICIES:,}")
    if chart is not None:
        _can_be_written(chart)
    kernels = _engines(kernel, engine)
    from netlab.bench.measure import Job, compiled, machine, perform, scratch, second_level_cache
    from netlab.bench.report import report
    from netlab.bench.site import MODES, Load
    from netlab.render.bench import render

    wanted = {name for names in kernels.values() for name in names}
    job = Job(Load(endpoints, policies), numbers, tuple(name for name in MODES if name in wanted), rounds)
    _fits_into_memory(job, [where for where in kernels if where])
    told = _Progress(quiet)
    try:
        with scratch() as directory:
            contenders = compiled(job, Path(directory) if any(kernels) else None, told)
            measured = []
            for where in kernels:
                if where:
                    told.where = where
                    measured.append(perform(job, where, contenders, Path(directory), told))
    finally:
        told("")
    found = report(job, contenders, measured, machine(), second_level_cache())
    emit(render(found, output))
    if chart is not None:
        from netlab.render.bench_chart import chart as drawn

        try:
            Path(chart).write_bytes(drawn(found, Path(chart).suffix.lower()))
        except OSError as error:
            raise InputError(f"--chart {chart}: {error.strerror or error}", hint="the figures stand above") from None
    return 0


def _numbers(text: str, endpoints: int) -> tuple[int, ...]:
    from netlab.bench.site import MAX_ENDPOINTS, MAX_SERVICES

    found = []
    for word in text.split(","):
        if not word.strip().isdecimal() or len(word) > 20:
            raise InputError(f'--services: "{word[:20]}" is no number of services', hint="write --services 1,100,10000")
        found.append(int(word))
    if not 1 <= endpoints <= MAX_ENDPOINTS:
        raise InputError(f"--endpoints {endpoints}: a service has 1 to {MAX_ENDPOINTS:,}")
    for number in found:
        if number < 1:
            raise InputError("--services 0: without a service there is no lookup", hint="the least is 1")
        if number > MAX_SERVICES:
            raise InputError(f"--services {number:,}: there are at most {MAX_SERVICES:,}")
        if number * endpoints > MAX_ENDPOINTS:
            raise InputError(f"{number} services of {endpoints} endpoints: there are at most {MAX_ENDPOINTS:,} endpoints in all")
    return tuple(sorted(set(found)))


def _can_be_written(chart: str) -> None:
    """Before minutes of work: is it a chart that can be drawn, in a place where it may lie?"""
    from netlab.errors import did_you_mean
    from netlab.render.bench_chart import SUFFIXES, require_png

    suffix = Path(chart).suffix.lower()
    if suffix not in SUFFIXES:
        hint = did_you_mean(suffix, SUFFIXES) or f"FILE ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise InputError(f"--chart {chart}: a chart is not drawn as {suffix or 'a file without a suffix'}", hint=hint)
    if suffix == ".png":
        require_png()
    there = Path(chart).exists()
    with open(chart, "ab"):
        pass
    if not there:
        Path(chart).unlink()


def _fits_into_memory(job: Job, kernels: Sequence[str]) -> None:
    """InputError where the rules of all contenders are more than the machine has room for."""
    from netlab.bench.measure import available_memory, needed_memory

    free = available_memory()
    needed = max(needed_memory(job, kernel) for kernel in kernels or [""])
    if free is not None and needed > free:
        raise InputError(
            f"the rules of {' + '.join(f'{n:,}' for n in job.services)} services need about {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free",
            hint="fewer --services at a time, or fewer --engine",
        )


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
    from netlab.lab.host import require

    for name in {name for names in found.values() for name in names}:
        for tool in ("ip", "unshare", *_TOOLS[name]):
            require(tool, f"measuring {name}")
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


class _Progress:
    """A line on a terminal that changes; silence anywhere else."""

    def __init__(self, quiet: bool) -> None:
        self.where, self.silent = "bench", quiet or not sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if not self.silent:
            print(f"\r\x1b[K{self.where}: {text}" if text else "\r\x1b[K", end="", file=sys.stderr, flush=True)
