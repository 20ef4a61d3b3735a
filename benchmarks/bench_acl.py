"""The matching core beside DPDK's librte_acl: the first of 1,000 to 100,000 rules on five fields that holds a packet.

    python benchmarks/bench_acl.py [--rules 1000,10000,100000] [--sets acl,fw,ipc] [--packets 262144] [--rounds 5]

(apt-get install gcc libdpdk-dev) dpdk_acl.c is built with gcc -O3 -march=native; rules and packets are acl_rules.py's, in memory
for both. librte_acl runs its AVX2 code with max_size 0, which the goal names, and beside it all its AVX code, with 1 GB to spend
on larger tries, too: "best" is the fastest of these. netlab: `decide` with everything, down to the rule of each packet as an
array; of it, the time in the kernels. Contenders take turns. Law: a ratio is told where both name the same rule for every packet.
"""

from __future__ import annotations

import argparse
import os
import platform
import select
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import acl_rules
import numba
import numpy as np
from numpy.typing import NDArray
from ratios import ROUNDS, node, row, timed

from netlab.bench.measure import machine
from netlab.linux.rules import Hook
from netlab.match import batch
from netlab.match.batch import decide
from netlab.match.packets import Packets
from netlab.match.program import Program, compile_hook

SOURCE = Path(__file__).with_name("dpdk_acl.c")
GOAL, WIDER = "avx2", ("avx512x16", "avx512x32")  # algorithms; the goal's, and those of newer processors
SIZES: Final = (0, 1 << 30)  # rte_acl_config.max_size; 0, no limit, cuts rules into small tries at once (acl_bld.c NODE_MIN)
LARGE = 20_000  # rules, from which on the second size is only tried where the first one fails: building takes minutes and 20 GB
PATIENCE = 150  # seconds for building
BURST = 256  # packets a call of rte_acl_classify
REPEATED = acl_rules.TRACES[:2]

Times = dict[str, list[float]]  # by contender: nanoseconds a packet


# -- DPDK --------------------------------------------------------------------------------------------------------------


def built(folder: str) -> str:
    """The driver's path."""
    flags = None
    if shutil.which("pkg-config") and shutil.which("gcc"):
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libdpdk"], capture_output=True, text=True)
    if flags is None or flags.returncode:
        raise SystemExit("librte_acl is missing: apt-get install gcc pkg-config libdpdk-dev")
    path = os.path.join(folder, "dpdk_acl")
    subprocess.run(["gcc", "-O3", "-march=native", "-o", path, str(SOURCE), *flags.stdout.split()], check=True)
    return path


class Dpdk:
    """librte_acl with a set of rules: a process that classifies a trace when it is told to."""

    def __init__(self, driver: str, rules: Path, traces: list[Path], max_size: int) -> None:
        command = [driver, str(rules), str(max_size), str(BURST), *map(str, traces)]
        self.max_size, self.seconds, self.size, self.why = max_size, 0.0, 0, ""
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        words = self.process.stdout.readline().split() if ready else ["not", "built", "after", f"{PATIENCE}", "s"]
        if words[:1] == ["built"]:
            self.seconds, self.size = int(words[1]) / 1e9, int(words[2])
        else:
            self.why = " ".join(words) or "killed"
            self.end()

    def run(self, algorithm: str, trace: int, results: Path | None = None) -> float:
        """Nanoseconds for a trace; `results`: where the rules are written."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(algorithm, trace, results or "", file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line.strip().isdigit():
            raise SystemExit(f"librte_acl, {algorithm}: {line.strip() or 'ended'}")
        return float(line)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def dpdks(driver: str, rules: NDArray[np.uint32], traces: list[NDArray[np.uint32]]) -> Iterator[list[Dpdk]]:
    """The processes for a set, one for each size of tries."""
    found: list[Dpdk] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}" for number in range(len(traces) + 1)]
        for path, array in zip(paths, [rules, *traces], strict=True):
            array.tofile(path)
        try:
            for size in SIZES:
                if size and len(rules) >= LARGE and not found[0].why:
                    continue
                found.append(Dpdk(driver, paths[0], paths[1:], size))
            yield [each for each in found if not each.why]
        finally:
            for each in found:
                each.end()
                print("  librte_acl, " + (f"max_size {each.max_size:,}: " if each.max_size else "max_size 0: ")
                      + (each.why or f"built in {each.seconds:.1f} s, {each.size / 1e6:,.1f} MB"))  # fmt: skip


def algorithms() -> tuple[str, ...]:
    flags = Path("/proc/cpuinfo").read_text().split()
    return (GOAL, *WIDER) if {"avx512f", "avx512vl", "avx512bw", "avx512cd"} <= set(flags) else (GOAL,)


# -- netlab ------------------------------------------------------------------------------------------------------------


def packets_of(program: Program, trace: NDArray[np.uint32]) -> Packets:
    src, dst, sport, dport, protocol = trace
    return Packets.of_fields(4, program.names, src=src, dst=dst, sport=sport, dport=dport, protocol=protocol)


def in_kernels(program: Program, packets: Packets) -> float:
    """Seconds in what `decide` calls, once all rules that the packets meet are in the graph."""
    graph = program.arranged()
    at = np.full(len(packets), batch._start(graph, packets), np.int32)
    ways, rows = np.full(len(packets), -1, np.int64), np.zeros(len(packets), np.int32)
    arrays = batch._arrays(program, packets, graph)
    taken = timed(lambda: batch.WALK(*arrays, at, ways, rows))
    if (at >= 0).any():
        raise SystemExit("packets had to wait for the graph to grow")
    return taken


# -- measuring ---------------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """A set of rules under one trace, nanoseconds a packet."""

    rules: str
    law: str
    times: Times

    def ratio(self, pick: Callable[[list[float]], float], theirs: str, ours: str = "1 thread") -> float:
        return pick(self.times[theirs]) / pick(self.times[ours])

    def best(self) -> str:
        return min((name for name in self.times if name.startswith("dpdk ")), key=lambda name: min(self.times[name]))

    def goal(self) -> str:
        """The contender that the goal names; where it could not be built, the one with larger tries."""
        return next(name for size in SIZES for name in [f"dpdk {GOAL} {size}"] if name in self.times)


def measure(driver: str, flavour: str, count: int, many: int, rounds: int) -> Iterator[Result]:
    """All traces of a set."""
    rules = acl_rules.make(flavour, count, 1)
    traces = [acl_rules.trace(law, rules, many, 2) for law in acl_rules.TRACES]
    netns = node(acl_rules.ruleset(rules))
    begin = time.perf_counter()
    program = compile_hook(netns, 4, Hook.INPUT)
    batches = [packets_of(program, trace) for trace in traces]
    decide(program, batches[0].take(np.arange(1)))
    compiled = time.perf_counter() - begin
    growing = timed(lambda: [decide(program, packets).rule for packets in batches])
    cut = next(chain.cut for chain in program.layout() if chain.cut is not None)
    name = f"{flavour} {count:,}"
    print(f"{name}: netlab compiled in {compiled:.1f} s, {cut.size / 1e6:,.1f} MB, {cut.trees} trees; "
          f"each rule met for the first time: {growing:.1f} s in all")  # fmt: skip
    with dpdks(driver, rules, traces) as others, tempfile.TemporaryDirectory() as folder:
        for number, (law, packets) in enumerate(zip(acl_rules.TRACES, batches, strict=True)):
            times: Times = {}
            for each in others:
                for algorithm in algorithms():
                    each.run(algorithm, number, Path(folder) / "rules")
                    theirs = np.fromfile(Path(folder) / "rules", np.int32)
                    if not np.array_equal(decide(program, packets).rule, theirs):
                        raise SystemExit(f"{name}, {law}: netlab and librte_acl ({algorithm}) name different rules")
            for _ in range(rounds):
                for each in others:
                    for algorithm in algorithms():
                        spent = each.run(algorithm, number) / len(packets)
                        times.setdefault(f"dpdk {algorithm} {each.max_size}", []).append(spent)
                for threads in ("1 thread", "2 threads"):
                    numba.set_num_threads(int(threads[0]))
                    whole = timed(lambda: decide(program, packets).rule)  # noqa: B023
                    times.setdefault(threads, []).append(whole / len(packets) * 1e9)
                    if threads == "1 thread":
                        times.setdefault("kernels", []).append(in_kernels(program, packets) / len(packets) * 1e9)
            yield Result(name, law, times)


def told(values: list[float]) -> str:
    return f"{min(values):,.1f} / {statistics.median(values):,.1f}"


def line(result: Result) -> None:
    theirs, best, times = result.goal(), result.best(), result.times
    label = " ".join(best.split()[1:2]) + (", larger tries" if best.split()[2] != "0" else "")
    row(
        result.rules, result.law, told(times[theirs]) + ("" if theirs.endswith(" 0") else " (1 GB)"),
        f"{told(times[best])} ({label})", told(times["1 thread"]), told(times["kernels"]), told(times["2 threads"]),
        f"{result.ratio(min, theirs):.2f}x / {result.ratio(statistics.median, theirs):.2f}x",
        f"{result.ratio(min, best):.2f}x", f"{result.ratio(min, theirs, '2 threads'):.2f}x",
    )  # fmt: skip


def summary(results: list[Result]) -> None:
    """Geometric means and minima of the ratios."""
    for title, laws in (("repeated flows", REPEATED), ("new cells", acl_rules.TRACES[3:]), ("adversarial", acl_rules.TRACES[2:3]),
                        ("all", acl_rules.TRACES)):  # fmt: skip
        some = [result for result in results if result.law in laws]
        parts = []
        for kind, ratios in (
            (f"{GOAL}, minima", [result.ratio(min, result.goal()) for result in some]),
            (f"{GOAL}, medians", [result.ratio(statistics.median, result.goal()) for result in some]),
            ("best, minima", [result.ratio(min, result.best()) for result in some]),
            (f"{GOAL} : our 2 threads", [result.ratio(min, result.goal(), "2 threads") for result in some]),
        ):
            parts.append(f"{kind}: geometric mean {statistics.geometric_mean(ratios):.2f}x, least {min(ratios):.2f}x")
        print(f"{title}: " + "; ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", default="1000,10000,100000")
    parser.add_argument("--sets", default=",".join(acl_rules.FLAVOURS))
    parser.add_argument("--packets", type=int, default=1 << 18)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        driver = built(folder)
        version = subprocess.run(["pkg-config", "--modversion", "libdpdk"], capture_output=True, text=True).stdout.strip()
        print(f"{platform.system()} {platform.release()}, {machine()}, DPDK {version}, "
              f"numba {numba.__version__}; {asked.packets:,} packets (new cells: at most)")  # fmt: skip
        print(f"nanoseconds a packet, minimum / median of {asked.rounds} rounds in turn; ratios: of minima / of medians")
        row("set", "trace", f"DPDK {GOAL}", "DPDK, best", "netlab", "in kernels", "2 threads", "DPDK : netlab", "best :",
            ": 2 threads")  # fmt: skip
        for count in map(int, asked.rules.split(",")):
            for flavour in asked.sets.split(","):
                for result in measure(driver, flavour, count, asked.packets, asked.rounds):
                    line(result)
                    results.append(result)
    summary(results)


if __name__ == "__main__":
    main()
