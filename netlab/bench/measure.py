"""The real kernel, measured: time of a packet, of a load, of an update; memory of the rules.

    round 1: none, legacy 1, legacy 10 ... nftables 10000, yardsticks    round 2: the same again ...

Law: everything is compiled here, once for all kernels, and written to files; what runs in the namespaces (agent.py) has only to
carry it out, so that user-mode Linux, where Python is slow, has little to do. Every contender stands in namespaces of its own,
all at the same time, and is measured once in every round, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import median
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
    SOURCE_PORT,
    TARGET_PORT,
    Load,
    declared,
    endpoint_ip,
    service_ip,
    site,
    site_with,
)
from netlab.errors import InputError
from netlab.lab.host import refusal, unshare_command
from netlab.lab.plan import AddNetns, Run, Sysctls, make_plan, netns_file, sysctl_paths
from netlab.lab.uml import Uml
from netlab.lab.umlchoice import modules
from netlab.linux.addr import Ip
from netlab.linux.network import Network

ENGINES: Final = {  # by kernel; Debian's user-mode Linux has no NAT for nf_tables
    "host": ("iptables-legacy", "iptables-nft", "nftables"),
    "uml": ("iptables-legacy", "ipvs"),
}
NONE: Final = "none"
PATIENCE: Final = 1.5  # seconds: a load that takes longer is not repeated

# bytes for a service or an endpoint: netlab's own; the kernel's rules; a tool's while it loads them
_OWN: Final = 10_000
_HELD: Final = {"iptables-legacy": 1_500, "iptables-nft": 2_500, "nftables": 2_000, "ipvs": 1_500}
_LOADING: Final = {"iptables-legacy": 3_000, "iptables-nft": 6_000, "nftables": 14_000, "ipvs": 3_000}

_LOST: Final = 1  # packets that may be lost in a round, for each sample
_AGENT: Final = Path(__file__).with_name("agent.py")
_HOLDER: Final = Path(__file__).parents[1] / "lab" / "holder.py"
_TOOLS: Final = ("iptables-legacy-restore", "iptables-nft-restore", "nft", "ipset", "ipvsadm")
_NOBODY: Final = "02:00:00:00:00:99"
_ZERO: Final = Fraction(0)
_NOTHING: Final = Counts(Count(_ZERO, _ZERO, _ZERO, _ZERO), Count(_ZERO, _ZERO, _ZERO, _ZERO))
_UML_NEEDS: Final = ("veth", "IPVS", "dummy", "ipset", "iptables-legacy")
_UML_SCRATCH: Final = "/run/netlab-uml"  # what the directory of a Uml is called inside

Told = Callable[[str], None]


class Job(msgspec.Struct, frozen=True):
    """What to measure. `repeats` bursts of `seconds` for each service, kind and round; `loads` loads and updates."""

    load: Load
    services: tuple[int, ...]
    engines: tuple[str, ...]
    rounds: int = 20
    repeats: int = 2
    seconds: float = 0.0015
    loads: int = 3


class Sample(msgspec.Struct, frozen=True):
    """Nanoseconds a packet, a number for each round (its fastest burst), what a node without rules takes already taken away.

    `services` 0: a yardstick. `rules`, `asked`, `probes`, `bytes`: what the model counts for the packet.
    """

    engine: str
    services: int
    position: str
    kind: str
    rules: float
    asked: float
    probes: float
    bytes: float | None
    ns: tuple[float, ...] = ()


class Holding(msgspec.Struct, frozen=True):
    """What a node holds for a number of services, and what it takes: seconds, bytes; a number for each load."""

    engine: str
    services: int
    rules: int
    load: tuple[float, ...] = ()
    update: tuple[float, ...] = ()
    memory: tuple[int, ...] = ()
    transactions: int = 1  # of nft
    entries: int | None = None  # bytes of iptables-legacy's tables, as the kernel tells them


class Measured(msgspec.Struct, frozen=True):
    """All of one kernel. `baseline`: nanoseconds of a packet through the node without rules; `disturbed`: bursts thrown
    away; `lost`: packets that did not arrive."""

    kernel: str
    release: str
    samples: tuple[Sample, ...]
    holdings: tuple[Holding, ...]
    baseline: tuple[float, ...]
    bursts: int
    disturbed: int
    lost: int


class Contender(msgspec.Struct, frozen=True):
    """One set of rules, ready for the agent. `services` 0: none, or a yardstick; `places` are addresses to send to, by name."""

    name: str
    engine: str
    services: int
    rules: int
    places: tuple[tuple[str, Ip], ...]
    counts: tuple[tuple[str, str, Count], ...]  # place, kind
    spec: dict[str, Any]


def positions(services: int) -> list[tuple[str, int]]:
    """First, middle and last: the number of the service at each place of KUBE-SERVICES. No service has two places.

    >>> positions(10), positions(2), positions(1)
    ([('first', 0), ('middle', 5), ('last', 9)], [('first', 0), ('last', 1)], [('only', 0)])
    """
    match services:
        case 1:
            return [("only", 0)]
        case 2:
            return [("first", 0), ("last", 1)]
        case _:
            return [("first", 0), ("middle", services // 2), ("last", services - 1)]


# -- compiled ----------------------------------------------------------------------------------------------------------


def compiled(job: Job, directory: Path | None, told: Told) -> list[Contender]:
    """Every set of rules, counted; what loads and updates it as files of a directory (None: nothing is to be measured)."""
    if directory is None:
        return _only_counted(job, told)
    files = _Files(directory)
    made = [_contender(NONE, NONE, 0, site_with(None), [("first", service_ip(0))], files)]
    told("compiling the yardsticks")  # they are loaded first: what a kernel does once is not counted in a load
    for engine in job.engines:
        network, places = yard.yardstick(engine, max(job.services), job.load.policies > 0)
        made.append(_contender(f"yardstick of {engine}", engine, 0, network, places, files))
    for services in job.services:
        told(f"compiling the rules of {services:,} services")
        before, after = (declared(job.load, services, moved) for moved in (None, services // 2))
        pairs: dict[str, tuple[Network, Network]] = {}
        for engine in job.engines:
            mode = _mode(engine)
            if mode not in pairs:
                pairs[mode] = (site(before, mode), site(after, mode))
            places = [(place, service_ip(number)) for place, number in positions(services)]
            name = f"{engine}, {services:,} services"
            made.append(_contender(name, engine, services, pairs[mode][0], places, files, pairs[mode][1], job.load.endpoints))
    return made


def _only_counted(job: Job, told: Told) -> list[Contender]:
    made = []
    for services in job.services:
        told(f"counting: {services:,} services")
        cluster = declared(job.load, services)
        places = tuple((place, service_ip(number)) for place, number in positions(services))
        networks: dict[str, Network] = {}
        for engine in job.engines:
            mode = _mode(engine)
            if mode not in networks:
                networks[mode] = site(cluster, mode)
            network = networks[mode]
            made.append(Contender(engine, engine, services, rules_of(network), places, _counts(engine, network, places), {}))
    return made


def _mode(engine: str) -> str:
    """kube-proxy's mode."""
    return engine.removesuffix("-legacy").removesuffix("-nft")


def _counts(engine: str, network: Network, places: Sequence[tuple[str, Ip]]) -> tuple[tuple[str, str, Count], ...]:
    found: dict[Ip, Counts] = {}
    for _, address in places:
        if address not in found:
            found[address] = _NOTHING if engine == NONE else count(network, address)
    return tuple(
        (place, kind, n)
        for place, address in places
        for kind, n in (("new", found[address].new), ("established", found[address].established))
    )


def _contender(
    name: str,
    engine: str,
    services: int,
    network: Network,
    places: Sequence[tuple[str, Ip]],
    files: _Files,
    moved: Network | None = None,
    endpoints: int = 1,
) -> Contender:
    variant = "nft" if engine in ("iptables-nft", "nftables") else "legacy"
    furniture, load = _split(network, variant, files)
    updates = []
    if moved is not None:
        for pair in ((network, moved), (moved, network)):
            updates.append([files.command("", argv, text) for argv, text in update.commands(*pair, variant)])
    tables = (
        [table.name for table in network.namespaces[NODE].rulesets[4].tables] if engine in ("iptables-legacy", "ipvs") else []
    )
    addresses = dict.fromkeys(address for _, address in places)
    targets = [
        {"to": str(address), "kind": kind, "endpoints": _behind(engine, services, address, endpoints)}
        for address in addresses
        for kind in ("new", "established")
    ]
    node, client, behind = (network.namespaces[name] for name in (NODE, CLIENT, ENDPOINTS))
    spec = {
        "name": name, "furniture": furniture, "load": load, "updates": updates, "tables": tables,
        "node": netns_file(NODE), "client": netns_file(CLIENT), "endpoints": netns_file(ENDPOINTS), "client_ip": str(CLIENT_IP),
        "port": PORT, "target_port": PORT if engine == NONE else TARGET_PORT, "sport": SOURCE_PORT, "size": LENGTH,
        "in0_mac": next(device.mac for device in node.devices.values() if device.peer == (CLIENT, "eth0")),
        "out0_mac": node.devices["out0"].mac, "client_mac": client.devices["eth0"].mac,
        "endpoints_mac": behind.devices["eth0"].mac,
        "targets": targets,
    }  # fmt: skip
    return Contender(name, engine, services, rules_of(network), tuple(places), _counts(engine, network, places), spec)


def _behind(engine: str, services: int, address: Ip, endpoints: int) -> list[str]:
    """Where packets to an address come out of the node."""
    if engine == NONE:
        return [str(address)]
    number = address.value - service_ip(0).value if services else 0
    return [str(endpoint_ip(number, k, endpoints)) for k in range(endpoints)]


class _Files:
    """Texts as files of a directory, each once."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.names = directory, dict[int, str]()

    def command(self, ns: str, argv: Sequence[str], text: str) -> dict[str, Any]:
        name = ""
        if text:
            name = f"{len(self.names)}.txt"
            self.names[len(self.names)] = name
            (self.directory / name).write_text(text)
        return {"type": "run", "ns": ns, "argv": list(argv), "file": name}


def _split(network: Network, variant: str, files: _Files) -> tuple[list[Any], list[Any]]:
    """What stands around the rules, and what loads these in any namespace."""
    plan = make_plan(network, variant=variant)
    furniture: list[Any] = []
    load: list[Any] = []
    for action in plan.actions:
        match action:
            case AddNetns(name):
                furniture.append({"type": "netns", "name": name})
            case Sysctls(ns, settings, optional):
                paths = sysctl_paths(settings)
                furniture.append({"type": "sysctls", "ns": ns, "settings": paths, "optional": optional})
            case Run(ns, argv, text) if ns == NODE and argv[0] == "nft":
                load += [files.command(ns, argv, part) for part in update.transactions(text)]
            case Run(ns, argv, text) if ns == NODE and argv[0] in _TOOLS:
                load.append(files.command(ns, argv, text))
            case Run(ns, argv, text) if ns == NODE and argv[0] == "ip" and "kube-ipvs0" in text:  # addresses: part of the load
                lines = text.splitlines(keepends=True)
                furniture.append(files.command(ns, argv, "".join(line for line in lines if "kube-ipvs0" not in line)))
                load.append(files.command(ns, argv, "".join(line for line in lines if "kube-ipvs0" in line)))
            case Run(ns, argv, text):
                furniture.append(files.command(ns, argv, text))
    # the endpoints' device drops what is addressed to somebody else at once
    away = ("ip", "neigh", "replace", "192.0.2.1", "lladdr", _NOBODY, "dev", "out0", "nud", "permanent")
    furniture.append(files.command(NODE, away, ""))
    if network.namespaces[NODE].ipvs:  # connections of flows that are never heard of again: not five minutes
        furniture.append(files.command(NODE, ("ipvsadm", "--set", "900", "120", "1"), ""))
    return furniture, load


def rules_of(network: Network) -> int:
    """Rules of all tables on the node; with IPVS its virtual services and real servers, too, as lines of ipvsadm."""
    node = network.namespaces[NODE]
    ruleset = node.rulesets.get(4)
    if ruleset is None:
        return 0
    found = sum(len(chain.rules) for table in ruleset.tables for chain in table.chains.values())
    found += sum(len(chain.rules) for nft in ruleset.nft_tables for chain in nft.chains.values())
    return found + sum(1 + len(service.servers) for service in node.ipvs)


# -- performed ---------------------------------------------------------------------------------------------------------


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Where the files of a measurement lie."""
    return tempfile.TemporaryDirectory(prefix="netlab-bench-")


def perform(job: Job, kernel: str, contenders: Sequence[Contender], directory: Path, told: Told) -> Measured:
    """Measure on the running kernel ("host") or in user-mode Linux ("uml").

    Parameters
    ----------
    job : Job
    kernel : str
        A key of `ENGINES`.
    contenders : sequence of Contender
        From `compiled`; those that this kernel has no engine for are left out.
    directory : Path
        Theirs.
    told : callable
        Is told what is under way.

    Raises
    ------
    InputError
        Missing tools, no permission to make namespaces, rules that the kernel refuses, packets that do not arrive.
    """
    mine = [one for one in contenders if one.engine in (NONE, *ENGINES[kernel])]
    request = {
        "holder": str(_HOLDER), "sites": [one.spec for one in mine], "rounds": job.rounds, "repeats": job.repeats,
        "seconds": job.seconds, "loads": job.loads, "patience": PATIENCE,
    }  # fmt: skip
    (directory / "request.json").write_text(json.dumps(request))
    if kernel == "host":
        release = platform.release()
        answer = _on_host(directory, told)
    else:
        release, answer = _in_uml(directory, job, told)
    if "error" in answer:
        raise InputError(f"measuring{' in user-mode Linux' if kernel == 'uml' else ''}: {answer['error']}")
    found = _measured(kernel, release, mine, answer)
    if found.lost > _LOST * job.rounds * len(found.samples):
        raise InputError(
            f"{found.lost:,} packets were lost on the way, and what is dropped early takes less time: the figures would be wrong"
        )
    return found


def _on_host(directory: Path, told: Told) -> dict[str, Any]:
    with (directory / "answer.json").open("w+b") as out:
        process = subprocess.Popen(
            [*unshare_command(), sys.executable, "-I", str(_AGENT), str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        last = ""
        try:
            assert process.stderr is not None
            for line in process.stderr:
                last = line.strip() or last
                told(last)
            process.wait()
        finally:
            process.kill()  # unshare --kill-child: everything with it
            process.wait()
        out.seek(0)
        return _answer(out.read(), last)


def _answer(text: bytes, last: str) -> dict[str, Any]:
    if text:
        found: dict[str, Any] = json.loads(text)
        return found
    if "unshare" in last or "uid_map" in last:
        raise InputError(f"namespaces cannot be made here: {refusal(last)}", hint="run as root, or --kernel none only counts")
    raise InputError(f"the measurement has ended: {last}" if last else "the measurement has ended")


def _in_uml(directory: Path, job: Job, told: Told) -> tuple[str, dict[str, Any]]:
    told("booting user-mode Linux")
    with Uml(memory=uml_memory(job), modules=modules(_UML_NEEDS)) as uml:
        shutil.copytree(directory, uml.directory / "bench", copy_function=_linked)
        lines = _Lines(told)
        command = [sys.executable, "-I", str(_AGENT), f"{_UML_SCRATCH}/bench"]
        done = uml.run(command, stderr=lines)  # type: ignore[arg-type]
        release = (uml.run(["uname", "-r"]).stdout or b"").decode().strip()
        return release, _answer(done.stdout or b"", lines.last)


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def uml_memory(job: Job) -> int:
    """MiB for user-mode Linux: what rules, sets and virtual services of all contenders take, and room for the tools that load."""
    return 768 + int(sum(job.services) * (1 + job.load.endpoints) * 0.006)


class _Lines:
    """A binary sink that hands on whole lines."""

    def __init__(self, told: Told) -> None:
        self.told, self.rest, self.last = told, b"", ""

    def write(self, data: bytes) -> int:
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.last = line.decode(errors="replace").strip() or self.last
            self.told(self.last)
        return len(data)

    def flush(self) -> None:
        pass


def _measured(kernel: str, release: str, contenders: Sequence[Contender], answer: dict[str, Any]) -> Measured:
    sites = answer["sites"]
    base = {kind: sites[NONE]["ns"][f"{service_ip(0)} {kind}"] for kind in ("new", "established")}
    samples, holdings = [], []
    for one in contenders:
        said = sites[one.name]
        at = dict(one.places)
        for place, kind, n in one.counts if one.engine != NONE else ():
            key = f"{at[place]} {kind}"
            taken = tuple(ns - median(base[kind]) for ns in said["ns"][key])
            size = None if n.bytes is None else float(n.bytes)
            counted = (float(n.rules), float(n.asked), float(n.probes), size)
            samples.append(Sample(one.engine, one.services, place, kind, *counted, taken))
        if one.services:
            entries = sum(size for _, size in said["tables"].values()) if one.engine == "iptables-legacy" else None
            times = (tuple(said["loads"]), tuple(said["updates"]), tuple(said["memory"]))
            parts = sum(command["argv"][0] == "nft" for command in one.spec["load"]) or 1
            holdings.append(Holding(one.engine, one.services, one.rules, *times, parts, entries))
    return Measured(
        kernel, release, tuple(samples), tuple(holdings), tuple(base["new"]), answer["bursts"], answer["disturbed"],
        sum(said["lost"] for said in sites.values()),
    )  # fmt: skip


def needed_memory(job: Job, kernel: str) -> int:
    """Bytes, roughly: netlab's own for the largest number of services, the kernel's for the rules of all contenders at the same
    time, and the tool's that loads the largest.
    """
    each = 1 + job.load.endpoints
    own = max(job.services) * each * _OWN
    if not kernel:
        return int(own)
    engines = [engine for engine in job.engines if engine in ENGINES[kernel]]
    held = sum(job.services) * each * sum(_HELD[engine] for engine in engines)
    return int(own + held + max(job.services) * each * max(_LOADING[engine] for engine in engines))


def available_memory() -> int | None:
    """Bytes that this process may still take (proc(5), getrlimit(2)): None where nobody tells."""
    free = _told("/proc/meminfo", "MemAvailable:")
    limit, taken = resource.getrlimit(resource.RLIMIT_AS)[0], _told("/proc/self/status", "VmSize:")
    if limit == resource.RLIM_INFINITY or taken is None:
        return free
    return max(0, limit - taken if free is None else min(free, limit - taken))


def _told(file: str, name: str) -> int | None:
    """Bytes that a line of /proc tells in kB."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), None)


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
