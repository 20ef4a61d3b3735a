"""The matching core against others on the same rules and packets, in one run: the kernel, the twin, C, a bare hash table.

    python benchmarks/ratios.py [--services 10000] [--packets 1000000] [--no-kernel]

Contenders take turns, five rounds; minimum and median are shown. A ratio is only told where all give the same answer, packet
by packet: the rule that decides first. The kernel's time is that of `netlab bench`: what a packet of a new flow takes more than
through a node without rules; `iptables-legacy-restore` is run in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from netlab.bench.site import CLIENT_IP, NODE, PORT, TARGET_PORT, Load, declared, endpoint_ip, service_ip, site
from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.netns import Netns, NetnsKind
from netlab.linux.packet import UDP
from netlab.linux.rules import Hook, Ruleset, Table
from netlab.linux.text import iptables_save
from netlab.match.batch import Answer, decide, explain
from netlab.match.packets import CtFlag, Packets
from netlab.match.program import Program, compile_hook

ROUNDS = 5
HERE = Path(__file__).parent
RULE = np.dtype(
    [("src", "u4"), ("smask", "u4"), ("dst", "u4"), ("dmask", "u4"), ("protocol", "u2"), ("low", "u2"), ("high", "u2"),
     ("not_src", "u1"), ("not_dst", "u1"), ("never", "u1"), ("target", "u1"), ("to", "i4")], align=True,
)  # fmt: skip
PACKET = np.dtype([("src", "u4"), ("dst", "u4"), ("protocol", "u2"), ("port", "u2")], align=True)


def rules_of(services: int, endpoints: int) -> Ruleset:
    """kube-proxy's rules for so many services."""
    return site(declared(Load(endpoints), services), "iptables-legacy").namespaces[NODE].rulesets[4]


def trace(services: int, count: int, seed: int, law: str = "uniform") -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Sources and destinations: uint32[count] each."""
    rng = np.random.default_rng(seed)
    if law == "Zipf":
        number = np.minimum(rng.zipf(1.2, count) - 1, services - 1)
    elif law == "all distinct":
        number = rng.permutation(np.arange(count) % services)
    else:
        number = rng.integers(0, services, count)
    first = service_ip(0).value
    sources = (10 << 24 | 128 << 16) + (
        np.arange(count) % 60_000 + 2 if law == "all distinct" else rng.integers(2, 60_000, count)
    )
    return sources.astype(np.uint32), (first + number).astype(np.uint32)


def packets_of(program: Program, sources: NDArray[np.uint32], destinations: NDArray[np.uint32]) -> Packets:
    return Packets.of_fields(
        4, program.names, src=sources, dst=destinations, protocol=UDP, dport=PORT, sport=40_000, ctstate=1,
        ctflags=int(CtFlag.CONNECTION), indev=program.names.add("in0"),
    )  # fmt: skip


def node(ruleset: Ruleset) -> Netns:
    return Netns("node-0", NetnsKind.NODE, rulesets={4: ruleset})


# -- contenders --------------------------------------------------------------------------------------------------------


def flat(table: Table) -> tuple[NDArray[Any], dict[str, int], NDArray[np.int32]]:
    """A table's rules in order, each chain with a return behind it: the rows, first row by chain, and each row's own number."""
    rows, first, numbers = [], {}, []
    at = number = 0
    for chain in table.chains.values():
        first[chain.name] = at
        at += len(chain.rules) + 1
    for chain in table.chains.values():
        for rule in chain.rules:
            row = np.zeros((), RULE)
            row["high"] = 65535
            for match in rule.matches:
                match match:
                    case m.Source():
                        row["src"], row["smask"], row["not_src"] = match.value, match.mask, match.negate
                    case m.Destination():
                        row["dst"], row["dmask"], row["not_dst"] = match.value, match.mask, match.negate
                    case m.Protocol():
                        row["protocol"] = match.protocol
                    case m.Udp() if match.dport is not None:
                        row["low"], row["high"] = match.dport.low, match.dport.high
                    case m.Addrtype() | m.Mark():
                        row["never"] = 1
                    case m.Comment() | m.Statistic() | m.Udp():
                        pass  # of a chance the first way is taken, as of the core's answer the first leaf
                    case _:
                        raise NotImplementedError(str(match))
            match rule.target:
                case t.Jump():
                    row["target"], row["to"] = 1, first[rule.target.chain]
                case t.Return():
                    row["target"] = 2
                case t.Dnat():
                    row["target"] = 3
            rows.append(row)
            numbers.append(number)
            number += 1
        end = np.zeros((), RULE)
        end["high"], end["target"] = 65535, 2
        rows.append(end)
        numbers.append(-1)
    return np.array(rows, RULE), first, np.array(numbers, np.int32)


def linear_scan(ruleset: Ruleset, folder: str) -> Callable[[NDArray[np.uint32], NDArray[np.uint32]], NDArray[np.int32]]:
    """The scan in C."""
    library = os.path.join(folder, "linear_scan.so")
    command = ["gcc", "-O3", "-march=native", "-shared", "-fPIC", "-o", library, str(HERE / "linear_scan.c")]
    subprocess.run(command, check=True)
    scan = ctypes.CDLL(library).scan
    rows, first, numbers = flat(next(table for table in ruleset.tables if table.name == "nat"))

    def run(sources: NDArray[np.uint32], destinations: NDArray[np.uint32]) -> NDArray[np.int32]:
        packets = np.zeros(len(sources), PACKET)
        packets["src"], packets["dst"], packets["protocol"], packets["port"] = sources, destinations, UDP, PORT
        out = np.empty(len(sources), np.int32)
        begin = time.perf_counter()
        scan(rows.ctypes.data_as(ctypes.c_void_p), ctypes.c_int32(first["PREROUTING"]),
             packets.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(packets)),
             out.ctypes.data_as(ctypes.c_void_p))  # fmt: skip
        run.seconds = time.perf_counter() - begin  # type: ignore[attr-defined]
        return numbers[out]

    return run


@numba.njit(parallel=True)
def probe(destinations, ports, table, mask, out):  # type: ignore[no-untyped-def]
    """A bare hash table from (address, port) to a number."""
    for i in numba.prange(destinations.size):
        key = np.uint64(destinations[i]) << np.uint64(16) | np.uint64(ports[i])
        slot = (key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40) & mask
        while table[slot, 0] != key and table[slot, 0] != 0:
            slot = (slot + np.uint64(1)) & mask
        out[i] = table[slot, 1]


def bare_table(services: int) -> NDArray[np.uint64]:
    slots = 1 << (2 * services).bit_length()
    table = np.zeros((slots, 2), np.uint64)
    for number in range(services):
        key = service_ip(number).value << 16 | PORT
        slot = (key * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 40 & slots - 1
        while table[slot, 0]:
            slot = slot + 1 & slots - 1
        table[slot] = key, number
    return table


# -- measuring ---------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def spread(values: list[float], scale: float = 1e9, unit: str = "ns") -> str:
    return f"{min(values) * scale:,.1f} / {statistics.median(values) * scale:,.1f} {unit}"


def row(*cells: str) -> None:
    print(" | ".join(cells), flush=True)


def kernel_walk(services: int, policies: int = 0) -> dict[str, Any]:
    """What `netlab bench` says of iptables-legacy here: nanoseconds of a new flow's packet to the middle service."""
    command = [sys.executable, "-m", "netlab.cli.main", "bench", "--services", str(services), "--endpoints", "3",
               "--policies", str(policies), "--kernel", "host", "--engine", "iptables-legacy", "-o", "json", "-q"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"why": (done.stderr.strip().splitlines() or ["it failed"])[0]}
    return dict(json.loads(done.stdout))


def decisions(services: int, count: int, with_kernel: bool) -> None:
    ruleset = rules_of(services, 3)
    program = compile_hook(node(ruleset), 4, Hook.PREROUTING, ["nat"])
    rules = sum(len(chain.rules) for each in ruleset.tables for chain in each.chains.values())
    print(f"\nkube-proxy's nat table, {services:,} services x 3 endpoints, {rules:,} rules; "
          f"packets of new flows at PREROUTING; nanoseconds a decision, minimum / median of {ROUNDS}")  # fmt: skip
    row(
        "trace",
        "core, 2 threads",
        "core, 1 thread",
        "scan in C",
        "the twin",
        "bare hash, 2 threads",
        "core : C",
        ": twin",
        ": bare hash",
    )
    table, best = bare_table(services), 0.0
    with tempfile.TemporaryDirectory() as folder:
        scan = linear_scan(ruleset, folder)
        for law in ("uniform", "Zipf", "all distinct"):
            sources, destinations = trace(services, count, 1, law)
            packets, few = packets_of(program, sources, destinations), 4000
            answer: Answer = decide(program, packets)
            ports, out = np.full(count, PORT, np.uint32), np.empty(count, np.int64)
            probe(destinations, ports, table, np.uint64(len(table) - 1), out)
            same = scan(sources[:few], destinations[:few])
            if not np.array_equal(same, answer.rule[:few]):
                raise SystemExit("core and C disagree")
            twins = [explain(program, packets, i) for i in range(0, few, few // 8)]
            if [leaves[0].rule for leaves in twins] != answer.rule[0 : few : few // 8].tolist():
                raise SystemExit("core and twin disagree")
            two, one, c, twin, bare = [], [], [], [], []
            for _ in range(ROUNDS):
                numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
                two.append(timed(lambda: decide(program, packets)) / count)  # noqa: B023
                bare.append(timed(lambda: probe(destinations, ports, table, np.uint64(len(table) - 1), out)) / count)  # noqa: B023
                numba.set_num_threads(1)
                one.append(timed(lambda: decide(program, packets)) / count)  # noqa: B023
                scan(sources[:few], destinations[:few])
                c.append(scan.seconds / few)  # type: ignore[attr-defined]
                twin.append(timed(lambda: [explain(program, packets, i) for i in range(8)]) / 8)  # noqa: B023
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
            middle = statistics.median
            ratios = [f"{middle(other) / middle(two):,.1f}x" for other in (c, twin)]
            ratios.append(f"{middle(two) / middle(bare):.1f}x as long")
            row(law, spread(two), spread(one), spread(c), spread(twin), spread(bare), *ratios)
            best = best or statistics.median(two)
    if with_kernel:
        found = kernel_walk(services)
        print(json.dumps(found)[:2000] if "why" in found else kernel_words(found, best))


def kernel_words(found: dict[str, Any], core: float) -> str:
    walk = _new({"rows": [r for r in found["rows"] if r["place"] == "middle"]})
    what = "the kernel's own walk (a new flow to the middle service, less a node without rules)"
    return f"{what}: {walk:,.0f} ns: {walk / core / 1e9:,.0f}x the core's"


def calico_packets(count: int) -> tuple[Program, Packets]:
    """Felix's filter table at FORWARD, and packets of a pod under 500 policies of which the last one allows."""
    held = site(declared(Load(1, 500), 1), "iptables-legacy").namespaces[NODE]
    program = compile_hook(held, 4, Hook.FORWARD, ["filter"])
    rng = np.random.default_rng(5)
    device = next(name for name in held.devices if name.startswith("cali"))
    packets = Packets.of_fields(
        4, program.names, src=CLIENT_IP.value, dst=endpoint_ip(0, 0, 1).value, protocol=UDP, dport=TARGET_PORT,
        sport=rng.integers(1024, 65_000, count), ctstate=1, ctflags=int(CtFlag.CONNECTION),
        indev=program.names.add(device), outdev=program.names.add("out0"),
    )  # fmt: skip
    return program, packets


def calico(with_kernel: bool) -> None:
    """What a pod's policies cost."""
    count = 300_000
    program, packets = calico_packets(count)
    answer = decide(program, packets)
    if answer.leaves(0) != explain(program, packets, 0):
        raise SystemExit("core and twin disagree")
    times = [timed(lambda: decide(program, packets)) / count for _ in range(ROUNDS)]
    twin = [timed(lambda: explain(program, packets, 0)) for _ in range(ROUNDS)]
    print(f"\nCalico's filter table at FORWARD, a pod under 500 policies: {spread(times)}; the twin {spread(twin)}")
    if with_kernel:
        walks = [kernel_walk(1, policies) for policies in (0, 500)]
        if any("why" in walk for walk in walks):
            print(walks)
        else:
            without, under = (_new(walk) for walk in walks)
            print(f"the kernel: {under:,.0f} ns with the policies, {without:,.0f} ns without: "
                  f"{(under - without) / statistics.median(times) / 1e9:,.0f}x the core's median")  # fmt: skip


def _new(found: dict[str, Any]) -> float:
    row = next(r for r in found["rows"] if r["flow"] == "new")
    return float(row["measured"]["median"])


def other_modes(services: int, count: int) -> None:
    """The same services as nft's verdict maps (PREROUTING) and in IPVS (OUTPUT)."""
    print(f"\nthe same {services:,} services in kube-proxy's other modes, uniform:")
    for engine, hook, tables in (("nftables", Hook.PREROUTING, ["nft ip kube-proxy"]), ("ipvs", Hook.OUTPUT, ["ipvs"])):
        held = site(declared(Load(3), services), engine).namespaces[NODE]
        begin = time.perf_counter()
        program = compile_hook(held, 4, hook, tables)
        packets = packets_of(program, *trace(services, count, 1))
        answer = decide(program, packets)
        ready = time.perf_counter() - begin
        few = range(0, count, count // 20)
        if any(answer.leaves(i) != explain(program, packets, i) for i in few):
            raise SystemExit("core and twin disagree")
        times = [timed(lambda: decide(program, packets)) / count for _ in range(ROUNDS)]  # noqa: B023
        twin = [timed(lambda: explain(program, packets, i)) for i in few]  # noqa: B023
        row(engine, spread(times), f"the twin {spread(twin, 1e6, 'us')}", f"compiled and first answered in {ready:.1f} s")


def growth(count: int) -> None:
    times = {}
    for services in (1_000, 10_000, 50_000):
        program = compile_hook(node(rules_of(services, 3)), 4, Hook.PREROUTING, ["nat"])
        packets = packets_of(program, *trace(services, count, 2))
        decide(program, packets)
        times[services] = [timed(lambda: decide(program, packets)) / count for _ in range(ROUNDS)]  # noqa: B023
    print("\ngrowth, uniform services: " + ", ".join(f"{n:,} services {spread(found)}" for n, found in times.items())
          + f"; decisions per second at 50,000: {min(times[1_000]) / min(times[50_000]):.2f} of those at 1,000")  # fmt: skip


def compiling(services: int, endpoints: int) -> None:
    text = iptables_save.write(rules_of(services, endpoints), family=4)
    gc.collect()
    gc.disable()

    def ready() -> None:
        ruleset = iptables_save.parse(text, family=4)
        program = compile_hook(node(ruleset), 4, Hook.PREROUTING, ["nat"])
        decide(program, packets_of(program, *trace(services, 4, 3)))

    ours, theirs = [], {"iptables-legacy-restore": [], "iptables-nft-restore": []}  # type: ignore[var-annotated]
    with tempfile.NamedTemporaryFile("w", suffix=".rules") as file:
        file.write(text)
        file.flush()
        for _ in range(3):
            ours.append(timed(ready))
            for tool, found in theirs.items():
                with open(file.name, "rb") as rules:
                    own = ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]
                    command = ["unshare", *own, tool]
                    begin = time.perf_counter()
                    done = subprocess.run(command, stdin=rules, capture_output=True)
                    if done.returncode == 0:
                        found.append(time.perf_counter() - begin)
    gc.enable()
    loads = "; ".join(
        f"{tool} {spread(found, 1, 's')}, {min(found) / min(ours):.1f}x" if found else f"{tool} could not run"
        for tool, found in theirs.items()
    )
    lines = len(text.splitlines())
    print(f"\nparse + compile, until the first packet of any service is answered, {services:,} x {endpoints} ({lines:,} lines): "
          f"{spread(ours, 1, 's')}; {loads}")  # fmt: skip


def start() -> None:
    """First call in a process whose cache has the compiled kernels, and in one that has to compile them."""
    code = ("import time; a = time.perf_counter(); from netlab.match.batch import decide; "
            "from netlab.match.packets import Packets; "
            "from netlab.match.program import compile_hook; from netlab.linux.netns import Netns, NetnsKind; "
            "from netlab.linux.rules import *; "
            "b = time.perf_counter(); p = compile_hook(Netns('n', NetnsKind.NODE, rulesets={4: Ruleset()}), 4, Hook.INPUT); "
            "decide(p, Packets.of_fields(4, p.names, src=[1], dst=[2])); print(b - a, time.perf_counter() - b)")  # fmt: skip
    words = []
    with tempfile.TemporaryDirectory() as empty:
        for name, more in (
            ("kernels compiled (first time after installing)", {"NUMBA_CACHE_DIR": empty}),
            ("kernels from numba's cache", {}),
        ):
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **more}
            )
            imports, call = map(float, done.stdout.split())
            words.append(f"{name}: {call:.1f} s")
        words.append(f"import of numba and the core: {imports:.2f} s")
    print("\nfirst call in a process: " + "; ".join(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--no-kernel", action="store_true")
    asked = parser.parse_args()
    print(
        f"{platform.system()} {platform.release()}, {os.cpu_count()} processors, "
        f"CPython {platform.python_version()}, numba {numba.__version__}"
    )
    start()
    decisions(asked.services, asked.packets, not asked.no_kernel)
    other_modes(asked.services, asked.packets)
    calico(not asked.no_kernel)
    growth(asked.packets)
    compiling(10_000, 3)
    compiling(30_000, 4)
    print("\nDPDK's librte_acl stands in bench_acl.py, the kernel's eBPF load balancer in bench_ebpf.py")


if __name__ == "__main__":
    main()
