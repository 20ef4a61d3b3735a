"""The real kernel, measured: time of a packet, of a load, of an update; memory of the rules.

    round 1: none, legacy 1, legacy 10 ... nftables 10000, yardsticks    round 2: the same again ...

Law: every contender stands in namespaces of its own, all at the same time, and is measured once in every round, so that whatever
else the machine does falls on all alike. From the time of a packet that of the same packet through a node without rules is taken
away, round by round. The kernel is the one that this process runs under; user-mode Linux runs the same code inside (inside.py).
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import msgspec

from netlab.bench import update, yard
from netlab.bench.count import Count, Counts, count
from netlab.bench.site import (
    CLIENT,
    CLIENT_IP,
    ENDPOINTS,
    LENGTH,
    NODE,
    PORT,
    POSITIONS,
    SOURCE_PORT,
    cluster,
    service_ip,
    site,
    site_with,
)
from netlab.errors import InputError
from netlab.lab.host import Lab
from netlab.lab.plan import Plan, Run, make_plan
from netlab.linux.network import Network

ENGINES: Final = {  # by kernel; Debian's user-mode Linux has no NAT for nf_tables
    "host": ("iptables-legacy", "iptables-nft", "nftables"),
    "uml": ("iptables-legacy", "ipvs"),
}
NONE: Final = "none"
_AGENT: Final = str(Path(__file__).with_name("agent.py"))
_TOOLS: Final = ("iptables-legacy-restore", "iptables-nft-restore", "nft", "ipset", "ipvsadm")
_NOBODY: Final = "02:00:00:00:00:99"
_NOTHING: Final = Counts(Count(Fraction(0), Fraction(0), Fraction(0)), Count(Fraction(0), Fraction(0), Fraction(0)))


class Job(msgspec.Struct, frozen=True):
    """What to measure. `repeats` bursts for each service, kind and round; every load and update as often as there are `loads`."""

    services: tuple[int, ...]
    endpoints: int
    engines: tuple[str, ...]
    rounds: int = 5
    repeats: int = 7
    loads: int = 3


class Sample(msgspec.Struct, frozen=True):
    """Nanoseconds a packet, a number for each round (its fastest burst), what a node without rules takes already taken away.

    `services` 0: a yardstick. `rules`, `probes`, `bytes`: what the model counts for the packet. `lost` packets did not arrive.
    """

    engine: str
    services: int
    position: str
    kind: str
    rules: float
    probes: float
    bytes: float | None
    ns: tuple[float, ...] = ()
    lost: int = 0


class Holding(msgspec.Struct, frozen=True):
    """What a node holds for a number of services, and what it takes: seconds, bytes; a number for each load."""

    engine: str
    services: int
    rules: int
    load: tuple[float, ...] = ()
    update: tuple[float, ...] = ()
    memory: tuple[int, ...] = ()
    entries: int | None = None  # bytes of iptables-legacy's tables, as the kernel tells them


class Measured(msgspec.Struct, frozen=True):
    """All of one kernel. `baseline`: nanoseconds of a packet through the node without rules; `disturbed`: bursts thrown away."""

    kernel: str
    release: str
    samples: tuple[Sample, ...]
    holdings: tuple[Holding, ...]
    baseline: tuple[float, ...]
    bursts: int
    disturbed: int


class _Contender:
    def __init__(self, engine: str, services: int, network: Network, places: Sequence[tuple[str, int]]) -> None:
        self.engine, self.services, self.network = engine, services, network
        self.variant = "nft" if engine == "iptables-nft" else "legacy"
        self.places = places
        self.counts: dict[tuple[str, str], Count] = {}
        for place, number in places:
            found = _NOTHING if engine == NONE else count(network, service_ip(number))
            self.counts[place, "new"], self.counts[place, "established"] = found.new, found.established
        self.lab: Lab | None = None
        self.ns: dict[tuple[str, str], list[float]] = {key: [] for key in self.counts}
        self.lost: dict[tuple[str, str], int] = dict.fromkeys(self.counts, 0)

    def start(self) -> Lab:
        plan = make_plan(self.network, variant=self.variant)
        lab = Lab.start(Plan(plan.actions, (), plan.names, plan.notes))
        try:  # the endpoints' device drops what is addressed to somebody else at once
            lab.run(NODE, "ip", "neigh", "replace", "192.0.2.1", "lladdr", _NOBODY, "dev", "out0", "nud", "permanent")
        except BaseException:
            lab.close()
            raise
        self.lab = lab
        return lab


def enumerate_places(places: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The places whose services differ: with one service first, middle and last are the same."""
    return list({number: (place, number) for place, number in reversed(places)}.values())


def positions(services: int) -> list[tuple[str, int]]:
    """First, middle and last: the number of the service at each place of KUBE-SERVICES.

    >>> positions(10)
    [('first', 0), ('middle', 5), ('last', 9)]
    """
    return list(zip(POSITIONS, (0, services // 2, services - 1), strict=True))


def perform(job: Job, kernel: str, told: Callable[[str], None]) -> Measured:
    """Measure on the kernel that this process runs under.

    Parameters
    ----------
    job : Job
    kernel : str
        What to call it: "host" or "uml".
    told : callable
        Is told what is under way.

    Raises
    ------
    InputError
        Missing tools, no permission to make namespaces, rules that the kernel refuses, packets that do not arrive.
    """
    contenders = [_Contender(NONE, 0, site_with(None), [("first", 0)])]
    clusters: dict[tuple[str, int], Network] = {}
    for services in job.services:
        told(f"compiling the rules of {services:,} services")
        for engine in job.engines:
            network = clusters[engine, services] = site(cluster(services, job.endpoints, engine), engine)
            contenders.append(_Contender(engine, services, network, positions(services)))
    for engine in job.engines:
        contenders += [_Contender(engine, 0, network, [(label, 0)]) for label, network in _yardsticks(engine)]
    bursts = disturbed = 0
    with ExitStack() as stack:
        for n, contender in enumerate(contenders):
            told(f"loading {n + 1} of {len(contenders)} sets of rules")
            stack.enter_context(contender.start())
        for number in range(job.rounds):
            told(f"round {number + 1} of {job.rounds}: packets")
            base: dict[str, float] = {}
            for contender in contenders:
                answer = _bursts(contender, job)
                for one in answer["results"]:
                    bursts += len(one["ns"]) + one["disturbed"]
                    disturbed += one["disturbed"]
                    if not one["ns"]:
                        raise InputError(
                            "the machine is too busy to measure anything: every burst of packets was interrupted",
                            hint="try again on a quieter machine",
                        )
                    fastest = min(one["ns"])  # whatever else the machine does can only add
                    if contender.engine == NONE:
                        base[one["kind"]] = fastest
                    for key in _same(contender, one):
                        contender.ns[key].append(fastest - (0 if contender.engine == NONE else base[one["kind"]]))
                        contender.lost[key] += one["lost"]
        holdings = {}
        for contender in contenders:
            if contender.services:
                told(f"loads and updates: {contender.engine}, {contender.services:,} services")
                holdings[contender.engine, contender.services] = _holding(contender, job)
    samples = [
        Sample(
            c.engine, c.services, place, kind, float(n.rules), float(n.probes), None if n.bytes is None else float(n.bytes),
            tuple(c.ns[place, kind]), c.lost[place, kind],
        )
        for c in contenders
        for (place, kind), n in c.counts.items()
        if c.engine != NONE
    ]  # fmt: skip
    baseline = tuple(contenders[0].ns["first", "new"])
    return Measured(kernel, platform.release(), tuple(samples), tuple(holdings.values()), baseline, bursts, disturbed)


def _yardsticks(engine: str) -> list[tuple[str, Network]]:
    if engine == "ipvs":
        return [("one virtual service", yard.ipvs())]
    if engine == "nftables":
        return [(f"{rules} rules, {probes} probes", yard.nftables(rules, probes)) for rules, probes in yard.NFTABLES]
    return [
        (f"{rules} rules{' with a comment' if comment else ''}", yard.iptables(rules, comment))
        for rules, comment in yard.IPTABLES
    ]


def _same(contender: _Contender, result: dict[str, Any]) -> list[tuple[str, str]]:
    """The places that a result stands for."""
    return [(place, result["kind"]) for place, number in contender.places if str(service_ip(number)) == result["to"]]


def _ask(lab: Lab, **request: object) -> dict[str, Any]:
    said = json.loads(lab.run("", sys.executable, "-I", _AGENT, stdin=json.dumps(request)))
    if "error" in said:
        raise InputError(f"measuring: {said['error']}")
    answer: dict[str, Any] = said
    return answer


def site_of(lab: Lab, network: Network) -> dict[str, object]:
    """What the agent has to know of a lab that is a `site`."""
    node, client, behind = (network.namespaces[name] for name in (NODE, CLIENT, ENDPOINTS))
    return {
        "node": lab.file(NODE), "client": lab.file(CLIENT), "endpoints": lab.file(ENDPOINTS), "client_ip": str(CLIENT_IP),
        "port": PORT, "sport": SOURCE_PORT, "size": LENGTH, "in0_mac": node.devices["in0"].mac,
        "out0_mac": node.devices["out0"].mac, "client_mac": client.devices["eth0"].mac,
        "endpoints_mac": behind.devices["eth0"].mac,
    }  # fmt: skip


def _bursts(contender: _Contender, job: Job) -> dict[str, Any]:
    assert contender.lab is not None
    numbers = [number for _, number in enumerate_places(contender.places)]
    targets = [{"to": str(service_ip(number)), "kind": kind} for number in numbers for kind in ("new", "established")]
    site_ = site_of(contender.lab, contender.network)
    return _ask(contender.lab, do="bursts", site=site_, targets=targets, repeats=job.repeats)


def _holding(contender: _Contender, job: Job) -> Holding:
    assert contender.lab is not None
    lab, engine, services = contender.lab, contender.engine, contender.services
    network = contender.network
    moved = site(cluster(services, job.endpoints, engine, services // 2), engine)
    forth, back = (update.commands(*pair, contender.variant) for pair in ((network, moved), (moved, network)))
    load, memory, updates = [], [], []
    tables: dict[str, list[int]] = {}
    names = [table.name for table in network.namespaces[NODE].rulesets[4].tables] if contender.variant == "legacy" else []
    for _ in range(job.loads):
        told = _ask(lab, do="loads", commands=_load_commands(contender), tables=names)
        load.append(sum(told["seconds"]))
        memory.append(told["memory"])
        tables = told["tables"]
    for n in range(job.loads + job.loads % 2):  # back again in the end
        told = _ask(lab, do="updates", node=lab.file(NODE), commands=back if n % 2 else forth)
        updates.append(sum(told["seconds"]))
    entries = sum(size for _, size in tables.values()) if tables and engine == "iptables-legacy" else None
    return Holding(engine, services, rules_of(network), tuple(load), tuple(updates[: job.loads]), tuple(memory), entries)


def rules_of(network: Network) -> int:
    """Rules of all tables on the node; with IPVS its virtual services and real servers, too, as lines of ipvsadm."""
    node = network.namespaces[NODE]
    ruleset = node.rulesets[4]
    found = sum(len(chain.rules) for table in ruleset.tables for chain in table.chains.values())
    found += sum(len(chain.rules) for nft in ruleset.nft_tables for chain in nft.chains.values())
    return found + sum(1 + len(service.servers) for service in node.ipvs)


def _load_commands(contender: _Contender) -> list[list[Any]]:
    """What makes the node's rules in a fresh namespace."""
    plan = make_plan(contender.network, variant=contender.variant)
    found: list[list[Any]] = []
    for action in plan.actions:
        if not isinstance(action, Run) or action.ns != NODE:
            continue
        if action.argv[0] == "ip":
            text = "".join(line for line in action.stdin.splitlines(keepends=True) if "kube-ipvs0" in line)
            if text:
                found.append([list(action.argv), text])
        elif action.argv[0] in _TOOLS:
            found.append([list(action.argv), action.stdin])
    return found


def second_level_cache() -> int | None:
    """Bytes of a processor's level 2 cache, as /sys tells them; None where it does not."""
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, size = ((index / name).read_text().strip() for name in ("level", "size"))
        except OSError:
            continue
        if level == "2" and size.endswith("K"):
            return int(size[:-1]) << 10
    return None


def machine() -> str:
    """The processor and how many there are, as Linux names them."""
    name = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count() or 1} x {name}"
