"""What was read from a node in place of what would have been compiled for it.

    DIR/iptables-save ip6tables-save nft.json nft ipset ipvsadm ip-link.json ip-addr.json ip-route.json ip6-route.json
        ip-rule.json ip6-rule.json ip-neigh.json fdb.json sysctl   each optional; netlab/lab/snapshot.sh writes them

Law: a file replaces its kind of table and nothing else; `Netns.origins` says which. Dumps speak of one node only, so three
things are inferred, and said where they are not certain: which device is the node's port on the fabric (the one with its
address), which pod is behind a veth, and the MAC addresses of others, which netlab invents and a node's neighbour and FDB
tables know. Other nodes that were observed themselves keep their own: a disagreement between two dumps is a finding.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from netlab.dataplane.build import Lazy
from netlab.errors import InputError, did_you_mean
from netlab.linux.derived import derived_routes, in_kernel_order, link_local
from netlab.linux.ipvs import VirtualService
from netlab.linux.netns import LOCAL, Device, DeviceKind, FdbEntry, Neighbour, Netns, NetnsKind, PolicyRule, Route, RouteType
from netlab.linux.network import Network
from netlab.linux.nft import NftTable
from netlab.linux.rules import Ruleset
from netlab.linux.sets import IpSet
from netlab.linux.text import iproute, ipset, iptables_save, ipvsadm, nft, sysctl
from netlab.refs import Ref

FILES = {  # file name -> the command that writes it
    "iptables-save": "iptables-save",
    "ip6tables-save": "ip6tables-save",
    "nft.json": "nft -j list ruleset",
    "nft": "nft list ruleset",
    "ipset": "ipset save",
    "ip-link.json": "ip -d -j link",
    "ip-addr.json": "ip -j addr",
    "ip-route.json": "ip -j route show table all",
    "ip6-route.json": "ip -6 -j route show table all",
    "ip-rule.json": "ip -j rule",
    "ip6-rule.json": "ip -6 -j rule",
    "ip-neigh.json": "ip -j neigh",
    "fdb.json": "bridge -j fdb",
    "sysctl": "sysctl net",
    "ipvsadm": "ipvsadm -S -n",
}

_XTABLES = {(family, table) for family in ("ip", "ip6") for table in ("raw", "mangle", "nat", "filter", "security")}

_T = TypeVar("_T")

MAX_BYTES = 128 << 20  # a dump of 100,000 services is a tenth of it


class Observed(msgspec.Struct, frozen=True):
    """The network with one node replaced, and what was assumed on the way, one sentence each."""

    network: Network
    assumptions: tuple[str, ...] = ()


def apply_observed(network: Network, node: str, directory: str) -> Observed:
    """Replace what is compiled for `node` by what the files in `directory` say.

    Parameters
    ----------
    network : Network
        From `build`, or from an earlier call for another node.
    node : str
        The node that the dumps were taken on.
    directory : str
        A directory that holds at least one of `FILES`.

    Raises
    ------
    InputError
        Unknown node, no such directory, none of the files in it, or a file that cannot be read as what it should be.
    """
    nodes = [name for name in network.namespaces if "/" not in name and network.namespaces[name].kind is NetnsKind.NODE]
    if node not in nodes:
        raise InputError(f'unknown node "{node}"', hint=did_you_mean(node, nodes) or "nodes: " + ", ".join(nodes))
    texts, assumptions = read_directory(directory)
    return _Observation(network, network.namespaces[node], directory, texts, assumptions).apply()


def read_directory(directory: str) -> tuple[dict[str, str], list[str]]:
    """The files of a directory that have names of `FILES`, as text, and notes about what is there and not looked at."""
    if not os.path.isdir(directory):
        raise InputError(
            f"{'not a directory' if os.path.exists(directory) else 'no such directory'}: {directory}",
            hint="--observed takes NODE=DIR; DIR holds " + ", ".join(FILES),
        )
    names = sorted(os.listdir(directory))
    texts = {name: _read(os.path.join(directory, name)) for name in names if name in FILES}
    others = [name for name in names if name not in FILES]
    if not texts:
        found = f"found: {', '.join(others[:6])}" if others else "the directory is empty"
        raise InputError(f"no dump in {directory} ({found})", hint="netlab looks for " + ", ".join(FILES))
    notes = [f"{directory}: not read: {', '.join(others)}"] if others else []
    if "nft.json" in texts and "nft" in texts:
        notes.append(f"{directory}: nft.json is read, nft (the same as text) is not")
        del texts["nft"]
    for name in ("iptables-save", "ip6tables-save"):
        text = texts.get(name, "")
        strange = re.findall(r"^# Table .(\w+). .*incompatible", text, re.MULTILINE) if "incompatible" in text else []
        # nft.c nft_is_table_compatible: chains that nft made there are passed over
        if strange and "nft.json" not in texts and "nft" not in texts:
            notes.append(f"{directory}: {name} does not show what nft put into {', '.join(strange)}: it is not looked at")
    empty = [name for name in texts if name in ("iptables-save", "ip6tables-save", "nft") and not texts[name].strip()]
    if empty:  # what iptables-nft-save prints where there are no rules, and what a failed sudo leaves
        notes.append(f"{directory}: {' and '.join(empty)}: empty, so the node is taken to have no such rules")
    return texts, notes


def _is_iptables(table: NftTable) -> bool:
    """Made by iptables-nft: its name, and base chains called as iptables' are (nft.c nft_is_table_compatible asks the same)."""
    if (table.family, table.name) not in _XTABLES:
        return False
    return all(chain.name == chain.hook.value for chain in table.chains.values() if chain.hook is not None)


def any_rule(table: NftTable) -> bool:
    return any(chain.rules for chain in table.chains.values())


def _read(path: str) -> str:
    try:
        size = os.path.getsize(path)
        if size > MAX_BYTES:
            raise InputError(f"is {size >> 20} MiB; dumps of up to {MAX_BYTES >> 20} MiB are read", Ref(file=path))
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", Ref(file=path)) from None
    try:
        if b"\0" in data:
            raise ValueError
        return data.decode()
    except ValueError:
        name = os.path.basename(path)
        if data[:2] == b"\x1f\x8b":
            raise InputError("is compressed (gzip)", Ref(file=path), f"unpack it: gunzip < {name} > {name}.text") from None
        raise InputError("is not text", Ref(file=path), f'save it with "{FILES[name]} > {name}"') from None


class _Observation:
    """One node's dumps on their way into the network; `apply` runs the steps in order."""

    def __init__(
        self, network: Network, expected: Netns, directory: str, texts: Mapping[str, str], assumptions: Sequence[str]
    ) -> None:
        self.network = network
        self.expected = expected
        self.name = expected.name
        self.directory = directory
        self.texts = texts
        self.assumptions = list(assumptions)
        self.origins = dict(expected.origins)
        self.renamed: dict[str, str] = {}  # expected device -> observed device with the same role
        self.pods: dict[str, tuple[str, str | None]] = {}  # pod -> its veth on the node, its MAC where one was seen
        self.macs: dict[str, str] = {}  # invented MAC -> real one

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def parsed(self, name: str, origin: str, parse: Callable[[str, str], tuple[_T, ...]]) -> tuple[_T, ...] | None:
        """The values of a file, None where there is none."""
        if name not in self.texts:
            return None
        self.origins[origin] = "observed"
        return parse(self.texts[name], self.path(name))

    def apply(self) -> Observed:
        self.absent_tables()
        neighbours = self.parsed("ip-neigh.json", "neigh", iproute.parse_neigh)
        fdb = self.parsed("fdb.json", "fdb", iproute.parse_fdb)
        links = self.parsed("ip-link.json", "link", iproute.parse_link)
        addrs = self.parsed("ip-addr.json", "addr", iproute.parse_addr)
        routes = self.routes()
        rules = [*(self.rules(4)), *(self.rules(6))]
        sysctls = self.sysctls()

        fabric = self.fabric_device(links, addrs, routes)
        devices = self.devices(links, addrs, fabric)
        host_veths = [d for d in devices if _leads_out(d) and d.segment is None]
        if links is not None or addrs is not None:
            self.pair_pods(host_veths, neighbours or (), fdb or (), routes or ())
            devices = self.attach_pods(devices)
        if neighbours is not None:
            self.learn_macs(neighbours)
        if fdb is not None:
            self.learn_tunnel_macs(fdb)
        devices = self.add_strangers(devices, routes or (), neighbours or (), fdb or ())

        netns = msgspec.structs.replace(
            self.expected,
            devices={device.name: device for device in devices},
            routes=self.merged_routes(devices, routes, bool(sysctls.get("ipv6.conf.all.forwarding"))),
            rules=tuple(rules),
            neighbours=neighbours if neighbours is not None else tuple(map(self.with_real_mac, self.expected.neighbours)),
            fdb=fdb if fdb is not None else tuple(self.expected_fdb(devices)),
            rulesets=self.rulesets(),
            sets=self.sets(),
            ipvs=self.ipvs(),
            sysctls=_of_devices(sysctls, devices),
            origins=self.origins,
            cache={},
        )
        return Observed(self.with_others(netns), tuple(self.assumptions))

    # --- tables that stand alone

    def rulesets(self) -> Mapping[int, Ruleset]:
        """iptables-save is read now, ip6tables-save when it is first looked at: most traces need one of them."""
        made: dict[int, Callable[[], Ruleset]] = {f: partial(self.expected.rulesets.__getitem__, f) for f in (4, 6)}
        if "iptables-save" in self.texts:
            self.origins["iptables"] = "observed"
            made[4] = partial(_same, self.ruleset("iptables-save", 4))
        if "ip6tables-save" in self.texts:
            self.origins["ip6tables"] = "observed"
            made[6] = partial(self.ruleset, "ip6tables-save", 6)
        own = self.nft_tables()
        if own is not None or "iptables" in self.origins or "ip6tables" in self.origins:
            return Lazy({family: partial(self.with_nft, family, make, own) for family, make in made.items()})
        return Lazy(made)

    def nft_tables(self) -> tuple[NftTable, ...] | None:
        """What nft.json (or nft) holds, without the tables of iptables-nft, which iptables-save shows; None: no such file."""
        name = next((name for name in ("nft.json", "nft") if name in self.texts), None)
        if name is None:
            return None
        self.origins["nft"] = "observed"
        found = (nft.read_json if name == "nft.json" else nft.read_text)(self.texts[name], self.path(name))
        others = [f"{table.family} {table.name}" for table in found if table.family in ("arp", "bridge") and any_rule(table)]
        if others:
            self.assumptions.append(f"{self.name}: tables that no IP hook asks are not looked at: {', '.join(others)}")
        return tuple(table for table in found if not _is_iptables(table))

    def with_nft(
        self, family: int, make: Callable[[], Ruleset], own: tuple[NftTable, ...] | None
    ) -> Ruleset:
        """The family's rules with nft's tables: those of the dump, else the expected ones."""
        ruleset = make()
        if own is None:
            expected = self.expected.rulesets.get(family)
            if expected is None or ruleset is expected:
                return ruleset
            return msgspec.structs.replace(ruleset, nft_tables=expected.nft_tables, nft_origin=expected.nft_origin)
        families = ("ip" if family == 4 else "ip6", "inet", "netdev")
        tables = tuple(table for table in own if table.family in families)
        return msgspec.structs.replace(ruleset, nft_tables=tables, nft_origin="observed")

    def ruleset(self, name: str, family: int) -> Ruleset:
        return iptables_save.parse(self.texts[name], family=family, file=self.path(name), origin="observed")

    def absent_tables(self) -> None:
        """A dump of some tables only (`iptables-save -t filter`) leaves the others empty, and that is said."""
        for name in ("iptables-save", "ip6tables-save"):
            text = self.texts.get(name, "")
            absent = [table for table in ("nat", "filter") if f"*{table}\n" not in text.replace("\r", "")]
            if text.strip() and absent:
                tables = " and ".join(absent)
                self.assumptions.append(f"{self.name}: {self.path(name)} has no table {tables}: it is taken to be empty there")

    def sets(self) -> Mapping[str, IpSet]:
        if "ipset" not in self.texts:
            return self.expected.sets
        self.origins["ipset"] = "observed"
        return ipset.parse(self.texts["ipset"], self.path("ipset"))

    def ipvs(self) -> tuple[VirtualService, ...]:
        """`ipvsadm -S -n` or `ipvsadm -ln`; an empty file says that IPVS is not in use."""
        found = self.parsed("ipvsadm", "ipvs", ipvsadm.parse)
        return self.expected.ipvs if found is None else found

    def sysctls(self) -> Mapping[str, int]:
        """A whole dump is all there is: a sysctl that it lacks does not exist. A part of one replaces only what it has."""
        if "sysctl" not in self.texts:
            return self.expected.sysctls
        self.origins["sysctl"] = "observed"
        found = sysctl.parse(self.texts["sysctl"], self.path("sysctl"))
        if not found.whole:
            kept = [name for name in self.expected.sysctls if name not in found.values]
            if kept:
                self.assumptions.append(f"{self.name}: sysctl has not all of net; taken as expected: {', '.join(kept)}")
            return {**self.expected.sysctls, **found.values}
        if any(name.startswith("bridge.") for name in self.expected.sysctls) and not any(
            name.startswith("bridge.") for name in found.values
        ):
            self.assumptions.append(
                f"{self.name}: br_netfilter is not loaded there (sysctl has no net.bridge): bridged packets do not meet iptables"
            )
        return found.values

    def rules(self, family: int) -> tuple[PolicyRule, ...]:
        name = "ip-rule.json" if family == 4 else "ip6-rule.json"
        found = self.parsed(name, "rule" if family == 4 else "rule6", partial(iproute.parse_rule, family=family))
        return found if found is not None else tuple(rule for rule in self.expected.rules if rule.family == family)

    # --- routes

    def routes(self) -> tuple[Route, ...] | None:
        """All observed routes; `ip -j route show table all` holds both families, other commands one."""
        first = self.parsed("ip-route.json", "route", iproute.parse_route)
        second = self.parsed("ip6-route.json", "route6", iproute.parse_route)
        if first is None and second is None:
            return None
        if second is not None:
            first = tuple(route for route in first or () if route.dst.family == 4)
            second = tuple(route for route in second if route.dst.family == 6)
        return (first or ()) + (second or ())

    def merged_routes(
        self, devices: Sequence[Device], observed: Sequence[Route] | None, forwarding6: bool
    ) -> tuple[Route, ...]:
        """Per family: the dump as it is; the dump and what Linux derives from the addresses, where it is of table main alone;
        the expected routes and what Linux derives, where there is no dump."""
        derived = derived_routes(devices, forwarding6)
        merged: list[Route] = []
        for family, origin in ((4, "route"), (6, "route6")):
            dumped = [route for route in observed or () if route.dst.family == family]
            if not dumped and origin not in self.origins:
                added = [r for r in self.expected.routes if r.dst.family == family and r.protocol != "kernel"]
                merged += [r for r in derived if r.dst.family == family] + [self.renamed_route(r) for r in added]
                continue
            self.origins[origin] = "observed"
            if not any(route.table == LOCAL for route in dumped):
                merged += [r for r in derived if r.dst.family == family and r.table == LOCAL]
            merged += dumped
        return in_kernel_order(merged)

    def renamed_route(self, route: Route) -> Route:
        hops = tuple(msgspec.structs.replace(hop, dev=self.renamed.get(hop.dev, hop.dev)) for hop in route.nexthops)
        return msgspec.structs.replace(route, nexthops=hops)

    # --- devices

    def expected_port(self) -> Device:
        return next(device for device in self.expected.devices.values() if device.segment is not None)

    def fabric_device(
        self,
        links: Sequence[iproute.Link] | None,
        addrs: Sequence[iproute.Link] | None,
        routes: Sequence[Route] | None,
    ) -> str:
        """The name of the device that has the node's address; by the routes' source addresses where no dump has addresses."""
        port = self.expected_port()
        wanted = {address.ip for address in port.addresses if address.scope == "global"}
        if addrs is not None:
            for link in addrs:
                if any(address.ip in wanted for address in link.device.addresses):
                    return self.rename_port(port.name, link.device.name)
            raise InputError(
                f"no device has an address of {self.name} ({', '.join(map(str, sorted(wanted)))})",
                Ref(file=self.path("ip-addr.json")),
                "is it the dump of another node?",
            )
        known = {link.device.name for link in links or ()}
        for route in routes or ():
            if route.src in wanted and route.nexthops and route.nexthops[0].dev != "lo":
                return self.rename_port(port.name, route.nexthops[0].dev)
        if links is not None and port.name not in known:
            raise InputError(
                f'no device "{port.name}", and nothing says which one has an address of {self.name}',
                Ref(file=self.path("ip-link.json")),
                "add ip-addr.json",
            )
        return port.name

    def rename_port(self, expected: str, observed: str) -> str:
        if expected != observed:
            self.renamed[expected] = observed
        return observed

    def devices(self, links: Sequence[iproute.Link] | None, addrs: Sequence[iproute.Link] | None, fabric: str) -> list[Device]:
        """The node's devices: what both dumps say about each, and from the expectation what they leave open."""
        if links is None and addrs is None:
            return [self.with_role(device, fabric) for device in self.expected.devices.values()]
        by_name: dict[str, iproute.Link] = {link.device.name: link for link in links or ()}
        for link in addrs or ():
            other = by_name.get(link.device.name)
            by_name[link.device.name] = link if other is None else _joined(other, link)
        masters = {link.device.master for link in by_name.values() if link.device.master}
        back = {observed: expected for expected, observed in self.renamed.items()}
        devices = []
        guessed = []
        for name, link in by_name.items():
            twin = self.expected.devices.get(back.get(name, name))
            device = link.device
            changes: dict[str, object] = {}
            if device.kind is DeviceKind.OTHER and not link.detailed:
                kind, certain = _guess_kind(device, twin, name in masters)
                changes["kind"] = kind
                if not certain and name != fabric:
                    guessed.append(name)
                if twin is not None and kind is DeviceKind.VXLAN:
                    changes["vxlan"] = twin.vxlan
            if not link.detailed and device.master:
                changes["hairpin"] = any(d.hairpin for d in self.expected.devices.values())
            if not link.has_addresses:
                changes["addresses"] = twin.addresses if twin is not None else ()
            if twin is not None and twin.mac and device.mac and twin.mac != device.mac:
                self.macs[twin.mac] = device.mac
            devices.append(self.with_role(msgspec.structs.replace(device, **changes), fabric))
        if any(not link.detailed and link.device.master for link in by_name.values()):
            self.assumptions.append(f"{self.name}: hairpin mode of bridge ports is taken as expected (ip -d -j link tells it)")
        if guessed:
            self.assumptions.append(f"{self.name}: not modelled, as the dump does not tell their kind: {', '.join(guessed)}")
        return self.with_uplinks(devices, fabric)

    def with_role(self, device: Device, fabric: str) -> Device:
        """The device that has the node's address is its port on the fabric, whatever it is made of (a veth where the node is a
        container). Devices of the expectation change name with it."""
        if device.segment is not None and device.name != fabric:
            device = msgspec.structs.replace(device, name=fabric)
        if device.vxlan is not None and device.vxlan.lower in self.renamed:
            vxlan = msgspec.structs.replace(device.vxlan, lower=self.renamed[device.vxlan.lower])
            device = msgspec.structs.replace(device, vxlan=vxlan)
        if device.name == fabric and device.kind is not DeviceKind.BRIDGE:
            device = msgspec.structs.replace(device, kind=DeviceKind.PHYSICAL, segment=self.expected_port().segment, peer=None)
        return device

    def with_uplinks(self, devices: list[Device], fabric: str) -> list[Device]:
        """Where the node's address is on a bridge, the bridge's physical ports are the wires to the fabric."""
        return [
            msgspec.structs.replace(device, segment=self.expected_port().segment)
            if device.kind is DeviceKind.PHYSICAL and device.master == fabric
            else device
            for device in devices
        ]

    def add_strangers(
        self, devices: list[Device], routes: Iterable[Route], neighbours: Iterable[Neighbour], fdb: Iterable[FdbEntry]
    ) -> list[Device]:
        """Devices that other dumps name and no dump describes stand there without a model: a packet to one of them is unknown."""
        names = {device.name for device in devices}
        # every device has its own fe80::/10 and ff00::/8 routes: they say no more than that it exists
        used = [
            hop.dev
            for route in routes
            if not route.dst.address.is_link_local and not (route.dst.family == 6 and route.dst.address.is_multicast)
            for hop in route.nexthops
        ]
        used += [entry.dev for entry in neighbours]
        used += [entry.dev for entry in fdb]
        strangers = [name for name in dict.fromkeys(used) if name not in names]
        if strangers:
            self.assumptions.append(
                f"{self.name}: nothing is known about devices {', '.join(strangers)} (add ip-link.json and ip-addr.json)"
            )
        first = max((device.index for device in devices), default=0) + 1
        return devices + [Device(name, DeviceKind.OTHER, first + n) for n, name in enumerate(strangers)]

    # --- pods behind veths

    def pair_pods(
        self,
        veths: Sequence[Device],
        neighbours: Iterable[Neighbour],
        fdb: Iterable[FdbEntry],
        routes: Iterable[Route],
    ) -> None:
        """Find the veth of every pod of the node: by its expected name; by the MAC that the neighbour table has for its address
        and the bridge port behind which the FDB has that MAC; by a host route. What is left is taken in order, and said."""
        names = {device.name for device in veths}
        wanted = {
            d.peer[0]: d for d in self.expected.devices.values() if d.peer is not None and d.peer[0] in self.network.namespaces
        }
        port_of = {entry.mac: entry.dev for entry in fdb if entry.dev in names and entry.state != "permanent"}
        mac_of = {entry.ip: entry.mac for entry in neighbours if entry.mac and not entry.proxy}
        route_of = {
            r.dst.address: r.nexthops[0].dev
            for r in routes
            if r.type is RouteType.UNICAST and r.dst.length == r.dst.address.bits and r.nexthops and r.nexthops[0].dev in names
        }
        taken: set[str] = set()
        left = []
        for pod, device in wanted.items():
            eth0 = self.network.namespaces[pod].devices["eth0"]
            addresses = [a.ip for a in eth0.addresses if a.scope == "global"]
            mac = next((mac_of[a] for a in addresses if a in mac_of), None)
            port = device.name if device.name in names else None
            port = port or port_of.get(mac or eth0.mac) or next((route_of[a] for a in addresses if a in route_of), None)
            if port is None or port in taken:
                left.append((pod, mac))
                continue
            taken.add(port)
            self.pods[pod] = (port, mac)
        free = [device.name for device in veths if device.name not in taken]
        learned = {entry.dev: entry.mac for entry in fdb if entry.dev in names and entry.state != "permanent" and entry.master}
        guesses = []
        for (pod, mac), port in zip(left, free, strict=False):
            self.pods[pod] = (port, mac or learned.get(port))
            guesses.append(f"{port} {pod}")
        if guesses:
            self.assumptions.append(
                f"{self.name}: which pod is behind which veth is not in the dumps (ip-neigh.json and fdb.json tell it); "
                f"taken in order: {', '.join(guesses)}"
            )
        if missing := [pod for pod, _ in left[len(free) :]]:
            self.assumptions.append(f"{self.name}: no device for {', '.join(missing)} in the dumps; the expected one is kept")
        if spare := free[len(left) :]:
            self.assumptions.append(f"{self.name}: no pod is known behind {', '.join(spare)}")

    def attach_pods(self, devices: list[Device]) -> list[Device]:
        """Give the veths their peers; keep the expected veth of a pod that the dumps have no device for."""
        pod_of = {port: pod for pod, (port, _) in self.pods.items()}
        here = {device.index: device.name for device in devices}
        attached = []
        for device in devices:
            if device.name in pod_of:
                device = msgspec.structs.replace(device, kind=DeviceKind.VETH, peer=(pod_of[device.name], "eth0"))
            elif device.kind is DeviceKind.VETH and device.link_netnsid is None and device.link_index in here:
                device = msgspec.structs.replace(device, peer=(self.name, here[device.link_index]))
            attached.append(device)
        index = max(here, default=0)
        for device in self.expected.devices.values():
            if device.peer is not None and device.peer[0] in self.network.namespaces and device.peer[0] not in self.pods:
                index += 1
                attached.append(msgspec.structs.replace(device, index=index))
        for pod, (port, mac) in self.pods.items():
            invented = self.network.namespaces[pod].devices["eth0"].mac
            if mac is not None and mac != invented:
                self.macs[invented] = mac
            old = next(d.name for d in self.expected.devices.values() if d.peer is not None and d.peer[0] == pod)
            if old != port:
                self.renamed[old] = port
        return attached

    # --- MAC addresses

    def learn_macs(self, neighbours: Iterable[Neighbour]) -> None:
        """The node has spoken to its neighbours: their MACs are those in its table."""
        owners = {
            address.ip: device.mac
            for netns in self.others()
            for device in netns.devices.values()
            for address in device.addresses
            if device.kind is not DeviceKind.LOOPBACK
        }
        for pod in self.own_pods():
            eth0 = self.network.namespaces[pod].devices["eth0"]
            owners.update({address.ip: eth0.mac for address in eth0.addresses})
        for entry in neighbours:
            invented = owners.get(entry.ip)
            if invented and entry.mac and not entry.ip.is_link_local and entry.mac != invented and not entry.proxy:
                self.macs[invented] = entry.mac

    def learn_tunnel_macs(self, fdb: Iterable[FdbEntry]) -> None:
        """A tunnel's FDB entry names the MAC of the tunnel device at its far end."""
        tunnels = {
            (device.vxlan.local, device.name): device.mac
            for netns in self.others()
            for device in netns.devices.values()
            if device.vxlan is not None
        }
        for entry in fdb:
            invented = tunnels.get((entry.dst, entry.dev)) if entry.dst is not None else None
            if invented and entry.mac != invented and entry.mac.strip("0:"):
                self.macs[invented] = entry.mac

    def others(self) -> list[Netns]:
        """The nodes that were not observed, and the outside: their MACs are invented."""
        found = []
        for name in self.network.namespaces:
            if name != self.name and "/" not in name:
                netns = self.network.namespaces[name]
                if "link" not in netns.origins and "addr" not in netns.origins:
                    found.append(netns)
        return found

    def own_pods(self) -> list[str]:
        peers = [d.peer[0] for d in self.expected.devices.values() if d.peer is not None]
        return [pod for pod in peers if pod in self.network.namespaces]

    def with_real_mac(self, entry: Neighbour) -> Neighbour:
        real = self.macs.get(entry.mac or "")
        return entry if real is None else msgspec.structs.replace(entry, mac=real)

    def expected_fdb(self, devices: Sequence[Device]) -> list[FdbEntry]:
        """The expected entries with the observed names and MACs of their devices."""
        macs = {device.name: device.mac for device in devices}
        found = []
        for entry in self.expected.fdb:
            dev = self.renamed.get(entry.dev, entry.dev)
            mac = macs.get(dev, entry.mac) if entry.master else self.macs.get(entry.mac, entry.mac)
            found.append(msgspec.structs.replace(entry, dev=dev, mac=mac))
        return found

    def with_others(self, netns: Netns) -> Network:
        """The network with this node replaced, its pods attached to its veths, and real MACs wherever invented ones stood."""
        spaces = self.network.namespaces
        made: dict[str, Callable[[], Netns]] = {name: partial(spaces.__getitem__, name) for name in spaces}
        made[self.name] = partial(_same, netns)
        index_of = {device.peer[0]: device for device in netns.devices.values() if device.peer is not None}
        for pod in self.own_pods():
            if pod in index_of:
                made[pod] = partial(_attached, spaces, pod, self.name, index_of[pod], self.macs)
        if self.macs:
            for other in self.others():
                changed = _with_macs(other, self.macs)
                if changed is not other:
                    made[other.name] = partial(_same, changed)
        return msgspec.structs.replace(self.network, namespaces=Lazy(made))


def _same(value: _T) -> _T:
    return value


def _of_devices(sysctls: Mapping[str, int], devices: Iterable[Device]) -> Mapping[str, int]:
    """Without those of devices that are not modelled: no packet comes through them, and a lab does not have them."""
    unknown = {device.name for device in devices if device.kind is DeviceKind.OTHER}
    return {
        name: value
        for name, value in sysctls.items()
        if ".conf." not in name or name.split(".", 2)[2].rpartition(".")[0] not in unknown
    }


def _leads_out(device: Device) -> bool:
    """Is the other end of the device in another namespace?"""
    return device.kind is DeviceKind.VETH and device.link_netnsid is not None


def _joined(link: iproute.Link, addr: iproute.Link) -> iproute.Link:
    """One device in both dumps: the one with details describes it, `ip addr` has its addresses."""
    base = addr if addr.detailed and not link.detailed else link
    device = msgspec.structs.replace(base.device, addresses=addr.device.addresses)
    return iproute.Link(device, base.detailed, True)


def _guess_kind(device: Device, twin: Device | None, has_ports: bool) -> tuple[DeviceKind, bool]:
    """What a device is that a dump without details shows, and whether that is certain enough to model it."""
    if device.link_netnsid is not None:
        return DeviceKind.VETH, True
    if twin is not None:
        return twin.kind, True
    if has_ports:
        return DeviceKind.BRIDGE, True
    return DeviceKind.OTHER, False


def _renumbered(device: Device, macs: Mapping[str, str]) -> Device:
    """The device with its real MAC, and the link-local address that follows from it."""
    mac = macs.get(device.mac)
    if mac is None:
        return device
    old, new = link_local(device.mac), link_local(mac)
    return msgspec.structs.replace(device, mac=mac, addresses=tuple(new if a == old else a for a in device.addresses))


def _rederived(netns: Netns, devices: Mapping[str, Device]) -> tuple[Route, ...]:
    """Routes for changed devices: those that Linux derives anew, the others as they were."""
    added = [route for route in netns.routes if route.protocol != "kernel"]
    forwarding6 = bool(netns.sysctl("ipv6.conf.all.forwarding"))
    return in_kernel_order([*derived_routes(devices.values(), forwarding6), *added])


def _attached(spaces: Mapping[str, Netns], pod: str, node: str, veth: Device, macs: Mapping[str, str]) -> Netns:
    """A pod's namespace with its eth0 at the other end of the node's veth."""
    netns = spaces[pod]
    eth0 = _renumbered(netns.devices["eth0"], macs)
    eth0 = msgspec.structs.replace(eth0, peer=(node, veth.name), link_index=veth.index)
    devices = {**netns.devices, "eth0": eth0}
    return msgspec.structs.replace(netns, devices=devices, routes=_rederived(netns, devices), cache={})


def _with_macs(netns: Netns, macs: Mapping[str, str]) -> Netns:
    """A namespace that was not observed, with real MACs in place of invented ones; itself where it has none of them."""
    changes: dict[str, object] = {}
    if any(device.mac in macs for device in netns.devices.values()):
        devices = {name: _renumbered(device, macs) for name, device in netns.devices.items()}
        changes["devices"] = devices
        if "route" not in netns.origins and "route6" not in netns.origins:
            changes["routes"] = _rederived(netns, devices)
    if "neigh" not in netns.origins and any(entry.mac in macs for entry in netns.neighbours):
        changes["neighbours"] = tuple(
            msgspec.structs.replace(entry, mac=macs.get(entry.mac or "", entry.mac)) for entry in netns.neighbours
        )
    if "fdb" not in netns.origins and any(entry.mac in macs for entry in netns.fdb):
        changes["fdb"] = tuple(msgspec.structs.replace(entry, mac=macs.get(entry.mac, entry.mac)) for entry in netns.fdb)
    return msgspec.structs.replace(netns, **changes, cache={}) if changes else netns
