"""A network namespace: devices, addresses, routes, policy rules, neighbours, FDB, netfilter rules, sockets, sysctls.

Law: plain values, named as `ip`, `bridge` and /proc/sys name them. Nothing here decides anything; route.py, bridge.py
and the walker do. What a namespace does not hold does not exist in it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from netlab.linux.addr import Ip, Prefix
from netlab.linux.ipvs import VirtualService
from netlab.linux.rules import Ruleset
from netlab.linux.sets import IpSet
from netlab.refs import Ref


class DeviceKind(enum.Enum):
    """What `ip -d link` shows as the kind of a device."""

    LOOPBACK = "loopback"
    PHYSICAL = "physical"  # eth0: a port on a fabric segment
    VETH = "veth"
    BRIDGE = "bridge"
    VXLAN = "vxlan"
    IPIP = "ipip"
    DUMMY = "dummy"
    OTHER = "other"  # present in an observed dump, not modelled


class Address(msgspec.Struct, frozen=True, gc=False):
    """An address of a device with the prefix length of its subnet; `scope` is "global", "link" or "host".

    `broadcast` is the explicitly set broadcast address (`brd`), `peer` the far end of a point-to-point address.
    """

    ip: Ip
    length: int
    scope: str = "global"
    broadcast: Ip | None = None
    peer: Ip | None = None

    def __str__(self) -> str:
        return f"{self.ip}/{self.length}"


class Vxlan(msgspec.Struct, frozen=True, gc=False):
    """`ip -d link show` of a vxlan device: VNI, local address, UDP port, whether it learns FDB entries, its lower device."""

    vni: int
    local: Ip
    port: int = 8472
    learning: bool = False
    lower: str | None = None


class Device(msgspec.Struct, frozen=True):
    """A network device.

    `peer` is the other end of a veth: (namespace, device). `segment` names the fabric segment of a physical port.
    `master` is the bridge that it is a port of; `hairpin` that port's hairpin mode. `mtu` in bytes. `link_index` is the index
    of the other end of a veth, as `ip link` shows it after the `@`, and `link_netnsid` the id of the namespace that it is in.
    `lower_up` is the carrier, where it was observed.
    """

    name: str
    kind: DeviceKind
    index: int
    mac: str = ""
    mtu: int = 1500
    up: bool = True
    master: str | None = None
    hairpin: bool = False
    peer: tuple[str, str] | None = None
    segment: str | None = None
    vxlan: Vxlan | None = None
    addresses: tuple[Address, ...] = ()
    link_index: int | None = None
    link_netnsid: int | None = None
    lower_up: bool | None = None


class RouteType(enum.Enum):
    """Route types (ip-route(8))."""

    UNICAST = "unicast"
    LOCAL = "local"
    BROADCAST = "broadcast"
    MULTICAST = "multicast"
    ANYCAST = "anycast"
    BLACKHOLE = "blackhole"
    UNREACHABLE = "unreachable"
    PROHIBIT = "prohibit"
    THROW = "throw"


class NextHop(msgspec.Struct, frozen=True, gc=False):
    """Where a route leads: a gateway (or None: on link), a device, a weight for ECMP, `onlink` as in ip-route(8)."""

    dev: str
    via: Ip | None = None
    weight: int = 1
    onlink: bool = False


MAIN, LOCAL, DEFAULT = 254, 255, 253  # /etc/iproute2/rt_tables


class Route(msgspec.Struct, frozen=True, gc=False):
    """One route of one table. `unknown` keeps what is not modelled (a source prefix, a TOS, an encapsulation) as text."""

    dst: Prefix
    nexthops: tuple[NextHop, ...] = ()
    type: RouteType = RouteType.UNICAST
    src: Ip | None = None  # prefsrc
    metric: int = 0
    table: int = MAIN
    scope: str = "global"
    protocol: str = "boot"
    mtu: int | None = None
    ref: Ref | None = None
    unknown: str | None = None


class PolicyRule(msgspec.Struct, frozen=True, gc=False):
    """One line of `ip rule`; `table` None for the actions blackhole, unreachable, prohibit."""

    priority: int
    table: int | None
    family: int = 4
    src: Prefix | None = None
    dst: Prefix | None = None
    fwmark: int | None = None
    fwmask: int = 0xFFFFFFFF
    iif: str | None = None
    oif: str | None = None
    protocol: int | None = None
    sport: tuple[int, int] | None = None
    dport: tuple[int, int] | None = None
    invert: bool = False
    action: str = "lookup"
    suppress_prefixlength: int | None = None
    unknown: str | None = None  # selectors that are not modelled, as text


class Neighbour(msgspec.Struct, frozen=True, gc=False):
    """An entry of `ip neigh`; `state` PERMANENT entries never ask; others were learned. `proxy` entries answer for `ip`."""

    dev: str
    ip: Ip
    mac: str | None = None
    state: str = "PERMANENT"
    proxy: bool = False


class FdbEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of `bridge fdb`: frames to `mac` leave through `dev` (for vxlan: to the tunnel end `dst`).

    `state` is "" for what a bridge has learned.
    """

    dev: str
    mac: str
    dst: Ip | None = None
    master: str | None = None
    state: str = "permanent"
    vlan: int | None = None


class ProxySocket(msgspec.Struct, frozen=True, gc=False):
    """What kube-proxy's userspace mode does with what arrives at a socket: it opens a second connection to a backend.

    `backends` (address, port) are tried in turn, beginning where the last connection ended; `affinity` is the time in seconds
    for which a client keeps its backend. `accepts` False: the socket only holds its port, and nobody ever reads from it.
    """

    service: str
    backends: tuple[tuple[Ip, int], ...] = ()
    affinity: int | None = None
    accepts: bool = True


class Listener(msgspec.Struct, frozen=True, gc=False):
    """A socket that answers: protocol number, port, address (None: any), and who owns it ("pod default/web-0").

    `assumed` is set where nothing declared it (the trace then says so under assumptions); `not_modelled` where the port is
    taken by something that netlab does not model (a hostPort): what happens to a packet for it is then unknown. `proxy`: who
    owns it passes everything on (trace/proxied.py).
    """

    protocol: int
    port: int
    owner: str
    ip: Ip | None = None
    assumed: bool = False
    not_modelled: str = ""
    proxy: ProxySocket | None = None


class NetnsKind(enum.Enum):
    """Whose namespace it is."""

    NODE = "node"
    POD = "pod"
    EXTERNAL = "external"  # everything beyond the fabric's gateway


class Netns(msgspec.Struct, frozen=True):
    """A network namespace.

    `rulesets` maps the IP family (4, 6) to its Ruleset and may be computed on first use. `sysctls` has the dotted names of
    sysctl(8) without the leading "net.": `ipv4.ip_forward`, `ipv4.conf.all.rp_filter`, `bridge.bridge-nf-call-iptables` ...
    `origins` says per kind of table ("iptables", "route", "addr", ...) "observed" where it was read from the node.
    """

    name: str
    kind: NetnsKind
    devices: Mapping[str, Device] = {}
    routes: tuple[Route, ...] = ()
    rules: tuple[PolicyRule, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    fdb: tuple[FdbEntry, ...] = ()
    rulesets: Mapping[int, Ruleset] = {}
    sets: Mapping[str, IpSet] = {}
    ipvs: tuple[VirtualService, ...] = ()
    sysctls: Mapping[str, int] = {}
    listeners: tuple[Listener, ...] = ()
    origins: Mapping[str, str] = {}
    cache: dict[str, object] = msgspec.field(default_factory=dict)  # indexes made from this value (route.py, walker.py)

    def sysctl(self, name: str, default: int = 0) -> int:
        return self.sysctls.get(name, default)
