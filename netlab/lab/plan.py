"""From linux.Network to an ordered plan: namespaces, sysctls, links, addresses, routes, rules, as commands that can be printed.

    holder --+-- fabric netns: a bridge per segment ===veth=== eth0 of every node and of `internet`
             +-- node netns --- veth --- pod netns ...

Law: a pure function. The plan is what is carried out: nothing is added later, so that `--dry-run` shows the whole truth. What
Linux derives by itself (local and connected routes, FDB entries of ports) is not asked for; what a lab cannot have is in `notes`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from netlab.linux.addr import ip
from netlab.linux.derived import RULES
from netlab.linux.netns import (
    DEFAULT,
    LOCAL,
    MAIN,
    Address,
    Device,
    DeviceKind,
    FdbEntry,
    Listener,
    Netns,
    NetnsKind,
    NextHop,
    PolicyRule,
    Route,
    RouteType,
)
from netlab.linux.network import Network
from netlab.linux.packet import SCTP
from netlab.linux.rules import nft_tables
from netlab.linux.text import ipset, iptables_save, ipvsadm
from netlab.linux.text.nft import write_text

FABRIC = "netlab_fabric"  # holds the bridges that play the segments; no Kubernetes name has an underscore
VARIANTS = ("legacy", "nft")


class AddNetns(msgspec.Struct, frozen=True, tag="netns"):
    """Make a network namespace, kept under /run/netns."""

    name: str


class Sysctls(msgspec.Struct, frozen=True, tag="sysctls"):
    """Write sysctls (names without "net.") in a namespace. `optional` ones need not exist on every kernel."""

    ns: str
    settings: tuple[tuple[str, str], ...]
    optional: bool = False


class Run(msgspec.Struct, frozen=True, tag="run"):
    """Run a tool in a namespace ("": the holder's own) with a text as its input."""

    ns: str
    argv: tuple[str, ...]
    stdin: str = ""


Action = AddNetns | Sysctls | Run


class Plan(msgspec.Struct, frozen=True):
    """Actions in order, the sockets to open per namespace (by its real name), and what the lab does not reproduce."""

    actions: tuple[Action, ...]
    listeners: tuple[tuple[str, Listener], ...] = ()
    names: tuple[tuple[str, str], ...] = ()  # (name in the Network, name under /run/netns)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The plan as a shell script for `unshare -Urnm sh`."""
        return script(self)


def netns_file(name: str) -> str:
    """The name of a namespace under /run/netns: `default/web-0` -> `default_web-0`."""
    return name.replace("/", "_")


# What a fresh namespace is set to before anything is made in it. IPv4's conf.* are inherited from the host
# (net.core.devconf_inherit_init_net), so the kernel's own defaults are written out; duplicate address detection, router
# solicitations, redirects (netlab models none) and rate limits of ICMP errors are off: they make answers depend on time.
_CONF4 = {
    "rp_filter": 0, "accept_local": 0, "route_localnet": 0, "arp_ignore": 0, "arp_announce": 0, "arp_filter": 0, "proxy_arp": 0,
    "src_valid_mark": 0, "log_martians": 0, "accept_source_route": 0, "secure_redirects": 1,
    "send_redirects": 0, "shared_media": 1, "drop_unicast_in_l2_multicast": 0,
}  # fmt: skip
_CONF6 = {
    "disable_ipv6": 0, "accept_dad": 0, "dad_transmits": 0, "accept_ra": 0, "autoconf": 0, "router_solicitations": 0,
}  # fmt: skip
_BASELINE: tuple[tuple[str, str], ...] = (
    ("ipv4.ip_forward", "0"),
    *((f"ipv4.conf.{dev}.{key}", str(value)) for key, value in _CONF4.items() for dev in ("all", "default", "lo")),
    *((f"ipv6.conf.{dev}.{key}", str(value)) for key, value in _CONF6.items() for dev in ("all", "default")),
    ("ipv6.conf.default.addr_gen_mode", "1"),  # link-local addresses are added by name
    ("ipv6.conf.all.forwarding", "0"),
    ("ipv4.icmp_ratelimit", "0"),
    ("ipv6.icmp.ratelimit", "0"),
    ("ipv4.ping_group_range", "0 0"),  # ping sockets for the probes
)
_BRIDGE_NF = ("bridge.bridge-nf-call-iptables", "bridge.bridge-nf-call-ip6tables", "bridge.bridge-nf-call-arptables")
_OPTIONAL: tuple[tuple[str, str], ...] = (("ipv4.icmp_msgs_per_sec", "1000000"), ("ipv4.icmp_msgs_burst", "1000000"))

# ms between the three questions for a neighbour (the kernel's default is 1000). Entries stay REACHABLE for no longer than the
# kernel wants: all namespaces of the host share 1024 of them, and one whose timer runs cannot be thrown out (neigh_forced_gc)
NEIGHBOUR = "retrans 100"


def make_plan(network: Network, *, variant: str = "legacy") -> Plan:
    """What to do so that a kernel holds this network.

    Parameters
    ----------
    network : Network
        Compiled from a cluster, or observed.
    variant : str
        "legacy" or "nft": which iptables loads the rules.

    Returns
    -------
    Plan
        Deterministic: the same network gives the same plan.
    """
    if variant not in VARIANTS:
        raise ValueError(f"iptables variant {variant!r}")
    notes: list[str] = []
    spaces = sorted(network.namespaces.values(), key=lambda n: _ORDER[n.kind])  # far ends first: carriers are up when routes come
    actions: list[Action] = [AddNetns(FABRIC), *(AddNetns(netns_file(netns.name)) for netns in spaces)]
    actions.append(Sysctls(FABRIC, _early({"ipv6.conf.default.disable_ipv6": "1"})))
    actions.append(Sysctls(FABRIC, _maybe({}), optional=True))
    for netns in spaces:
        own = {name: str(value) for name, value in netns.sysctls.items() if not _is_late(name)}
        actions.append(Sysctls(netns_file(netns.name), _early(own)))
        actions.append(Sysctls(netns_file(netns.name), _maybe(own), optional=True))
    actions.append(Run("", ("ip", "-batch", "-"), _text(_wires(network, spaces, notes))))
    actions.append(Run(FABRIC, ("ip", "-batch", "-"), _text(_fabric(network, spaces))))
    for netns in spaces:
        actions += _furnish(netns, variant, notes)
    listeners = tuple((netns.name, bound) for netns in spaces for one in netns.listeners for bound in sockets(netns, one))
    names = tuple((netns.name, netns_file(netns.name)) for netns in spaces)
    return Plan(tuple(actions), listeners, names, tuple(dict.fromkeys(notes)))


def sockets(netns: Netns, listener: Listener) -> list[Listener]:
    """The sockets that stand for a listener of the model: none where it is not modelled, for SCTP one for each address.

    An SCTP socket without an address offers the client all of its host's (RFC 9260, 5.1.2) and answers from the one that its
    route prefers, which NAT does not follow. Bound to one it answers from there, as netlab says.
    """
    if listener.not_modelled:
        return []
    if listener.protocol != SCTP or listener.ip is not None:
        return [listener]
    own = [address.ip for device in netns.devices.values() for address in device.addresses if not address.ip.is_link_local]
    own += [ip("127.0.0.1"), ip("::1")]
    return [msgspec.structs.replace(listener, ip=address) for address in dict.fromkeys(own)]


_ORDER = {NetnsKind.EXTERNAL: 0, NetnsKind.NODE: 1, NetnsKind.POD: 2}


def _text(lines: Iterable[str]) -> str:
    return "".join([f"{line}\n" for line in lines])


# -- sysctls -----------------------------------------------------------------------------------------------------------


def _is_late(name: str) -> bool:
    """Does the sysctl belong to a device that must exist first?"""
    parts = name.split(".")
    return len(parts) > 3 and parts[1] in ("conf", "neigh") and parts[2] not in ("all", "default", "lo")


def _early(own: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The baseline with a namespace's own values; ip_forward and `all.forwarding` first, for they reset others."""
    wanted = {**dict(_BASELINE), **{name: value for name, value in own.items() if name not in _BRIDGE_NF or value != "0"}}
    for dev in ("all", "default"):  # hosts believe redirects, routers do not (devinet.c inet_forward_change)
        wanted.setdefault(f"ipv4.conf.{dev}.accept_redirects", "0" if wanted["ipv4.ip_forward"] == "1" else "1")
    return tuple(sorted(wanted.items(), key=lambda setting: "forward" not in setting[0]))


def _maybe(own: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What is only to be switched where the kernel has it: without br_netfilter no bridge calls iptables anyway."""
    return (*_OPTIONAL, *((name, "0") for name in _BRIDGE_NF if own.get(name, "0") == "0"))


# -- wires -------------------------------------------------------------------------------------------------------------


def _wires(network: Network, spaces: list[Netns], notes: list[str]) -> Iterator[str]:
    """Every veth pair, made in place: pods to nodes, physical ports to their segment's bridge."""
    for n, segment in enumerate(network.segments):
        mtu = network.segments[segment].mtu
        yield f"link add name {_segment_bridge(n)} netns {FABRIC} mtu {mtu} type bridge mcast_snooping 0 stp_state 0"
    made: set[tuple[str, str]] = set()
    port = 0
    for netns in spaces:
        for device in _by_index(netns):
            here = (netns.name, device.name)
            if device.kind is DeviceKind.PHYSICAL:
                yield f"{_new_link(netns, device)} type veth peer name p{port} mtu {device.mtu} netns {FABRIC}"
                port += 1
                if device.segment not in network.segments:
                    notes.append(f"{netns.name}: {device.name} is a port on no known segment: nothing is plugged in")
            elif device.kind is DeviceKind.VETH and here not in made:
                other = network.namespaces.get(device.peer[0]) if device.peer is not None else None
                far = other.devices.get(device.peer[1]) if other is not None and device.peer is not None else None
                if other is None or far is None:
                    notes.append(f"{netns.name}: the other end of {device.name} is not known: nothing is plugged in")
                    yield f"{_new_link(netns, device)} type veth peer name d{port} netns {FABRIC}"
                    port += 1
                    continue
                made |= {here, (other.name, far.name)}
                yield f"{_new_link(netns, device)} type veth peer {_new_link(other, far).removeprefix('link add ')}"


def _fabric(network: Network, spaces: list[Netns]) -> Iterator[str]:
    bridges = {segment: _segment_bridge(n) for n, segment in enumerate(network.segments)}
    yield from (f"link set {bridge} up" for bridge in bridges.values())
    port = 0
    for netns in spaces:
        for device in _by_index(netns):
            if device.kind is DeviceKind.PHYSICAL:
                bridge = bridges.get(device.segment or "")
                if bridge is not None:
                    yield f"link set p{port} master {bridge} up"
                port += 1
            elif device.kind is DeviceKind.VETH:
                other = network.namespaces.get(device.peer[0]) if device.peer is not None else None
                if other is None or device.peer is None or device.peer[1] not in other.devices:
                    port += 1


def _segment_bridge(n: int) -> str:
    return f"br{n}"


def _by_index(netns: Netns) -> list[Device]:
    return sorted(netns.devices.values(), key=lambda d: d.index)


def _new_link(netns: Netns, device: Device) -> str:
    mac = f" address {device.mac}" if device.mac else ""
    return f"link add name {device.name} index {device.index}{mac} mtu {device.mtu} netns {netns_file(netns.name)}"


# -- one namespace -----------------------------------------------------------------------------------------------------


def _furnish(netns: Netns, variant: str, notes: list[str]) -> Iterator[Action]:
    ns = netns_file(netns.name)
    yield Run(ns, ("ip", "-batch", "-"), _text(_ip_lines(netns, notes)))
    late = tuple((name, str(value)) for name, value in netns.sysctls.items() if _is_late(name))
    if late:
        yield Sysctls(ns, late)
    fdb = _text(_fdb_lines(netns))
    if fdb:
        yield Run(ns, ("bridge", "-batch", "-"), fdb)
    if netns.sets:
        yield Run(ns, ("ipset", "restore"), ipset.write(netns.sets))
    if netns.ipvs:
        yield Run(ns, ("ipvsadm", "-R"), ipvsadm.write_save(netns.ipvs))
    for family in (4, 6):
        ruleset = netns.rulesets.get(family)
        if ruleset is not None and ruleset.tables:
            tool = f"{'iptables' if family == 4 else 'ip6tables'}-{variant}-restore"
            yield Run(ns, (tool,), iptables_save.write(ruleset, family=family))
    tables = nft_tables(netns.rulesets)
    if tables:
        yield Run(ns, ("nft", "-f", "-"), write_text(tables))


def _ip_lines(netns: Netns, notes: list[str]) -> Iterator[str]:
    devices = _by_index(netns)
    for device in devices:
        match device.kind:
            case DeviceKind.BRIDGE:
                yield f"{_here(device)} type bridge"
            case DeviceKind.VXLAN if device.vxlan is not None:
                vxlan = device.vxlan
                lower = f" dev {vxlan.lower}" if vxlan.lower else ""
                learning = "learning" if vxlan.learning else "nolearning"
                yield f"{_here(device)} type vxlan id {vxlan.vni} local {vxlan.local}{lower} dstport {vxlan.port} {learning}"
            case DeviceKind.DUMMY:
                yield f"{_here(device)} type dummy"
            case DeviceKind.IPIP:
                yield f"link add name {device.name} index {device.index} mtu {device.mtu} type ipip"
            case DeviceKind.LOOPBACK | DeviceKind.PHYSICAL | DeviceKind.VETH:
                pass
            case _:
                notes.append(f"{netns.name}: {device.name} ({device.kind.value}) is not made in the lab")
    present = [d for d in devices if d.kind is not DeviceKind.OTHER]
    for device in present:
        if device.master is not None:
            yield f"link set {device.name} master {device.master}"
            yield f"link set {device.name} type bridge_slave hairpin {'on' if device.hairpin else 'off'}"
    for device in present:
        if device.up:
            yield f"link set {device.name} up"
    for device in present:
        for cache in ("arp_cache", "ndisc_cache"):
            if device.kind is not DeviceKind.LOOPBACK and device.up:
                yield f"ntable change name {cache} dev {device.name} {NEIGHBOUR}"
        for address in _last_first(device.addresses):
            if device.kind is DeviceKind.LOOPBACK and address.scope == "host":
                continue  # 127.0.0.1 and ::1 come with the device
            yield _address(device, address)
    names = {d.name for d in present}
    for route in sorted(netns.routes, key=_connected_first):
        if route.protocol == "kernel" or route.table == LOCAL:
            continue
        if route.unknown is not None:
            notes.append(f"{netns.name}: route to {route.dst} with {route.unknown} is not made in the lab")
        elif all(hop.dev in names for hop in route.nexthops):
            yield _route(route)
    yield from _rules(netns, notes)
    for entry in netns.neighbours:
        if entry.proxy:
            yield f"neigh replace proxy {entry.ip} dev {entry.dev}"
        elif entry.state == "PERMANENT" and entry.mac and entry.dev in names:
            yield f"neigh replace {entry.ip} lladdr {entry.mac} dev {entry.dev} nud permanent"


def _last_first(addresses: Iterable[Address]) -> list[Address]:
    """The order in which to add addresses so that `ip addr` lists them as the model does: Linux puts a new IPv6 address before
    those of its scope (addrconf.c ipv6_link_dev_addr), a new IPv4 address behind."""
    listed = list(addresses)
    late = [a for a in listed if a.ip.family == 6 and a.scope != "link"]
    return [a for a in listed if a.ip.family == 4] + late[::-1] + [a for a in listed if a.ip.family == 6 and a.scope == "link"]


def _here(device: Device) -> str:
    mac = f" address {device.mac}" if device.mac else ""
    return f"link add name {device.name} index {device.index}{mac} mtu {device.mtu}"


def _address(device: Device, address: Address) -> str:
    peer = f"{address.ip} peer {address.peer}/{address.length}" if address.peer is not None else str(address)
    brd = f" broadcast {address.broadcast}" if address.broadcast is not None else ""
    nodad = " nodad" if address.ip.family == 6 else ""
    return f"address add {peer}{brd} dev {device.name} scope {address.scope}{nodad}"


def _connected_first(route: Route) -> tuple[bool, bool]:
    """Routes on link come before those through gateways, which must be reachable when they are added; those of a protocol without
    a name last of all: `ip -batch` takes the next name that it has seen before for that number (iproute2 rtnl_rtprot_a2n)."""
    return route.protocol.isdigit(), any(hop.via is not None for hop in route.nexthops)


def _route(route: Route) -> str:
    kind = "" if route.type is RouteType.UNICAST else f"{route.type.value} "
    parts = [f"route add {kind}{route.dst}"]
    if len(route.nexthops) == 1:
        parts.append(_hop(route.nexthops[0], route.dst.family))
    if route.src is not None:
        parts.append(f"src {route.src}")
    if route.metric:
        parts.append(f"metric {route.metric}")
    if route.table != MAIN:
        parts.append(f"table {route.table}")
    if route.scope != "global" and route.dst.family == 4:
        parts.append(f"scope {route.scope}")
    if route.protocol:
        parts.append(f"proto {route.protocol}")
    if route.mtu:
        parts.append(f"mtu {route.mtu}")
    if len(route.nexthops) > 1:
        parts += [f"nexthop {_hop(hop, route.dst.family)} weight {hop.weight}" for hop in route.nexthops]
    return " ".join(parts)


def _hop(hop: NextHop, family: int) -> str:
    via = ""
    if hop.via is not None:
        via = f"via {hop.via} " if hop.via.family == family else f"via inet{'6' if hop.via.family == 6 else ''} {hop.via} "
    return f"{via}dev {hop.dev}" + (" onlink" if hop.onlink else "")


def _rules(netns: Netns, notes: list[str]) -> Iterator[str]:
    """Policy rules that are not the kernel's own; defaults that the namespace does not have are deleted."""
    wanted = netns.rules or RULES
    for rule in RULES:
        if rule not in wanted and rule.table != DEFAULT:
            yield f"rule del from {'all' if rule.family == 4 else '::/0'} priority {rule.priority}"
    for rule in wanted:
        if rule in RULES:
            continue
        if rule.unknown is not None:
            notes.append(f"{netns.name}: policy rule {rule.priority} with {rule.unknown} is not made in the lab")
            continue
        yield _rule(rule)


def _rule(rule: PolicyRule) -> str:
    everything = "all" if rule.family == 4 else "::/0"
    parts = [f"rule add{' not' if rule.invert else ''} from {rule.src if rule.src is not None else everything}"]
    if rule.dst is not None:
        parts.append(f"to {rule.dst}")
    if rule.fwmark is not None:
        parts.append(f"fwmark {rule.fwmark:#x}/{rule.fwmask:#x}")
    if rule.iif is not None:
        parts.append(f"iif {rule.iif}")
    if rule.oif is not None:
        parts.append(f"oif {rule.oif}")
    if rule.protocol is not None:
        parts.append(f"ipproto {rule.protocol}")
    for name, ports in (("sport", rule.sport), ("dport", rule.dport)):
        if ports is not None:
            parts.append(f"{name} {ports[0]}-{ports[1]}")
    parts.append(f"priority {rule.priority}")
    parts.append(f"lookup {rule.table}" if rule.table is not None else rule.action)
    if rule.suppress_prefixlength is not None:
        parts.append(f"suppress_prefixlength {rule.suppress_prefixlength}")
    return " ".join(parts)


def _fdb_lines(netns: Netns) -> Iterator[str]:
    """FDB entries beside those that a port makes for its own MAC."""
    for entry in netns.fdb:
        device = netns.devices.get(entry.dev)
        if device is None or entry.state != "permanent":
            continue  # learned: the lab learns by itself
        if entry.dst is not None:
            yield f"fdb append {entry.mac} dev {entry.dev} dst {entry.dst} self permanent"
        elif entry.mac != device.mac and _is_unicast(entry):
            vlan = f" vlan {entry.vlan}" if entry.vlan is not None else ""
            where = "master" if entry.master is not None else "self"
            yield f"fdb replace {entry.mac} dev {entry.dev} {where}{vlan} permanent"


def _is_unicast(entry: FdbEntry) -> bool:
    return int(entry.mac[:2], 16) & 1 == 0


# -- printing ----------------------------------------------------------------------------------------------------------


def script(plan: Plan) -> str:
    """The plan as a POSIX shell script that does the same inside `unshare -Urnm sh` (or `unshare -nm sh` for root)."""
    lines = [
        "# run inside: unshare -Urnm sh -e   (root: unshare -nm sh -e)",
        "mount -t tmpfs tmpfs /run",
        "mkdir /run/netns",
    ]
    for action in plan.actions:
        match action:
            case AddNetns():
                lines.append(f"ip netns add {action.name}")
            case Sysctls():
                files = [f"echo {value} > /proc/sys/net/{_sysctl_path(name)}" for name, value in action.settings]
                lines.append(f"nsenter --net=/run/netns/{action.ns} sh {'+e' if action.optional else '-e'} <<'EOF'")
                lines += [f"[ ! -e {line.split(' > ')[1]} ] || {line}" if action.optional else line for line in files]
                lines.append("EOF")
            case Run():
                where = f"nsenter --net=/run/netns/{action.ns} " if action.ns else ""
                if action.stdin:
                    lines += [f"{where}{shlex.join(action.argv)} <<'EOF'", action.stdin.rstrip("\n"), "EOF"]
                else:
                    lines.append(f"{where}{shlex.join(action.argv)}")
    return _text(lines)


def _sysctl_path(name: str) -> str:
    """`ipv4.conf.eth0.rp_filter` -> `ipv4/conf/eth0/rp_filter`; device names may hold dots (flannel.1)."""
    parts = name.split(".")
    if len(parts) > 4 and parts[1] in ("conf", "neigh"):
        return "/".join([*parts[:2], ".".join(parts[2:-1]), parts[-1]])
    return "/".join(parts)


def sysctl_paths(settings: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Paths under /proc/sys/net with the values to write."""
    return [(_sysctl_path(name), value) for name, value in settings]
