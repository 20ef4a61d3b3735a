"""iproute2's text: what `ip addr|link|route|rule|neigh` and `bridge fdb` print, and the JSON of `ip -j` / `bridge -j` read.

Law: printed text and JSON are those of iproute2 6.1, spaces at line ends included, so that `diff` with a node's own output
shows real differences only; reading back what was printed as JSON gives the same values. A document that is not what the
tool writes is an InputError with the file and the path inside it. What the kernel knows and netlab does not hold is printed
as it is by default (qdisc, qlen, group, lifetimes). Plain text is not read: it leaves out what JSON has.
Sources: iproute2 ip/ipaddress.c, ip/iproute.c, ip/iprule.c, ip/ipneigh.c, bridge/fdb.c.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from netlab.errors import InputError
from netlab.linux.addr import Ip, Prefix, ip, prefix
from netlab.linux.netns import (
    DEFAULT,
    LOCAL,
    MAIN,
    Address,
    Device,
    DeviceKind,
    FdbEntry,
    Neighbour,
    Netns,
    NextHop,
    PolicyRule,
    Route,
    RouteType,
    Vxlan,
)
from netlab.linux.packet import PROTOCOL_NUMBERS, protocol_name
from netlab.refs import Ref

TABLE_NAMES = {LOCAL: "local", MAIN: "main", DEFAULT: "default"}
_TABLE_NUMBERS = {name: number for number, name in TABLE_NAMES.items()}
_FOREVER = 0xFFFFFFFF
_NO_NEXTHOP = (RouteType.BLACKHOLE, RouteType.UNREACHABLE, RouteType.PROHIBIT, RouteType.THROW)
_ROUTE_TYPES = {t.value: t for t in RouteType}
_RULE_ACTIONS = frozenset({"unreachable", "prohibit", "blackhole"})
_RULE_TYPES = {"to_tbl": "lookup"}

T = TypeVar("T")


# --- printing: links and addresses ---------------------------------------------------------------------------------------------


def print_link(netns: Netns, *, json: bool = False, details: bool = False) -> str:
    """`ip link`; with `details` the lines of `ip -d link` that netlab has values for (vxlan, bridge_slave); JSON of
    `ip -j link` or `ip -d -j link`."""
    if json:
        return _json([_link_json(netns, device, details) for device in _by_index(netns)])
    return "".join(_link_text(netns, device, "mode DEFAULT ", details) for device in _by_index(netns))


def print_addr(netns: Netns, *, json: bool = False) -> str:
    """`ip addr`, or `ip -j addr`."""
    if json:
        rows = []
        for device in _by_index(netns):
            row = _link_json(netns, device, False)
            del row["linkmode"]
            row["addr_info"] = [_address_json(device, address) for address in device.addresses]
            rows.append(row)
        return _json(rows)
    lines = []
    for device in _by_index(netns):
        lines.append(_link_text(netns, device, "", False))
        lines += [_address_text(device, address) for address in device.addresses]
    return "".join(lines)


def _by_index(netns: Netns) -> list[Device]:
    return sorted(netns.devices.values(), key=lambda device: device.index)


def _has_carrier(netns: Netns, device: Device) -> bool:
    """A bridge has a carrier while one of its ports has (br_if.c, br_port_carrier_check)."""
    if device.lower_up is not None:
        return device.lower_up
    if device.kind is not DeviceKind.BRIDGE:
        return True
    return any(port.master == device.name and port.up for port in netns.devices.values())


def _flags(netns: Netns, device: Device) -> list[str]:
    flags = [] if not device.up or _has_carrier(netns, device) else ["NO-CARRIER"]
    match device.kind:
        case DeviceKind.LOOPBACK:
            flags.append("LOOPBACK")
        case DeviceKind.IPIP:
            flags.append("NOARP")
        case DeviceKind.DUMMY:
            flags += ["BROADCAST", "NOARP"]
        case _:
            flags += ["BROADCAST", "MULTICAST"]
    if device.up:
        flags.append("UP")
        if _has_carrier(netns, device):
            flags.append("LOWER_UP")
    return flags


def _operstate(netns: Netns, device: Device) -> str:
    if not device.up or not _has_carrier(netns, device):
        return "DOWN"
    if device.kind in (DeviceKind.LOOPBACK, DeviceKind.VXLAN, DeviceKind.IPIP, DeviceKind.DUMMY):
        return "UNKNOWN"  # these drivers do not report an operational state
    return "UP"


def _qdisc(device: Device) -> str:
    return "fq_codel" if device.kind is DeviceKind.PHYSICAL else "noqueue"


def _link_name(netns: Netns, device: Device) -> str | None:
    """The other end as `ip link` shows it: its name where it is in the same namespace, else None."""
    if device.link_index is None or device.link_netnsid is not None:
        return None
    return next((other.name for other in netns.devices.values() if other.index == device.link_index), None)


def _link_text(netns: Netns, device: Device, mode: str, details: bool) -> str:
    name = device.name
    if device.link_index is not None:
        name += "@" + (_link_name(netns, device) or f"if{device.link_index}")
    master = f"master {device.master} " if device.master else ""
    text = (
        f"{device.index}: {name}: <{','.join(_flags(netns, device))}> mtu {device.mtu} qdisc {_qdisc(device)} {master}"
        f"state {_operstate(netns, device)} {mode}group default qlen 1000\n"
    )
    kind = {DeviceKind.LOOPBACK: "loopback", DeviceKind.IPIP: "ipip"}.get(device.kind, "ether")
    text += f"    link/{kind} {device.mac} brd {_link_broadcast(device)}"
    if device.link_netnsid is not None:
        text += f" link-netnsid {device.link_netnsid}"
    text += "\n"
    if details and device.vxlan is not None:
        vxlan = device.vxlan
        lower = f" dev {vxlan.lower}" if vxlan.lower else ""
        learning = "" if vxlan.learning else " nolearning"
        text += f"    vxlan id {vxlan.vni} local {vxlan.local}{lower} dstport {vxlan.port}{learning} \n"
    if details and device.kind in (DeviceKind.VETH, DeviceKind.BRIDGE):
        text += f"    {device.kind.value} \n"
    if details and device.master:
        text += f"    bridge_slave state forwarding hairpin {'on' if device.hairpin else 'off'} \n"
    return text


def _link_broadcast(device: Device) -> str:
    match device.kind:
        case DeviceKind.LOOPBACK:
            return "00:00:00:00:00:00"
        case DeviceKind.IPIP:
            return "0.0.0.0"
        case _:
            return "ff:ff:ff:ff:ff:ff"


def _link_json(netns: Netns, device: Device, details: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"ifindex": device.index}
    if device.link_index is not None:
        name = _link_name(netns, device)
        if name:
            row["link"] = name
        else:
            row["link_index"] = device.link_index
    row["ifname"] = device.name
    row["flags"] = _flags(netns, device)
    row["mtu"] = device.mtu
    row["qdisc"] = _qdisc(device)
    if device.master:
        row["master"] = device.master
    row["operstate"] = _operstate(netns, device)
    row["linkmode"] = "DEFAULT"
    row["group"] = "default"
    row["txqlen"] = 1000
    row["link_type"] = {DeviceKind.LOOPBACK: "loopback", DeviceKind.IPIP: "ipip"}.get(device.kind, "ether")
    row["address"] = device.mac
    row["broadcast"] = _link_broadcast(device)
    if device.link_netnsid is not None:
        row["link_netnsid"] = device.link_netnsid
    if details:
        row["promiscuity"] = 1 if device.master else 0
        info = _linkinfo(device)
        if info:
            row["linkinfo"] = info
    return row


def _linkinfo(device: Device) -> dict[str, Any]:
    info: dict[str, Any] = {}
    if device.kind in (DeviceKind.VETH, DeviceKind.BRIDGE, DeviceKind.VXLAN, DeviceKind.IPIP, DeviceKind.DUMMY):
        info["info_kind"] = device.kind.value
    if device.vxlan is not None:
        vxlan = device.vxlan
        data: dict[str, Any] = {"id": vxlan.vni, "local" if vxlan.local.family == 4 else "local6": str(vxlan.local)}
        if vxlan.lower:
            data["link"] = vxlan.lower
        data["port"] = vxlan.port
        data["learning"] = vxlan.learning
        info["info_data"] = data
    if device.master:
        info["info_slave_kind"] = "bridge"
        info["info_slave_data"] = {"state": "forwarding", "hairpin": device.hairpin}
    return info


def _address_text(device: Device, address: Address) -> str:
    far = f"{address.ip} peer {address.peer}/{address.length}" if address.peer else str(address)
    broadcast = f" brd {address.broadcast}" if address.broadcast else ""
    if address.ip.family == 4:
        line = f"    inet {far}{broadcast} scope {address.scope} {device.name}\n"
    else:
        line = f"    inet6 {far} scope {address.scope} \n"
    return line + "       valid_lft forever preferred_lft forever\n"


def _address_json(device: Device, address: Address) -> dict[str, Any]:
    row: dict[str, Any] = {"family": "inet" if address.ip.family == 4 else "inet6", "local": str(address.ip)}
    if address.peer:
        row["address"] = str(address.peer)
    row["prefixlen"] = address.length
    if address.broadcast:
        row["broadcast"] = str(address.broadcast)
    row["scope"] = address.scope
    if address.ip.family == 4:
        row["label"] = device.name
    row["valid_life_time"] = row["preferred_life_time"] = _FOREVER
    return row


# --- printing: routes and rules ------------------------------------------------------------------------------------------------


def print_route(netns: Netns, *, family: int | None = None, table: int | None = MAIN, json: bool = False) -> str:
    """`ip route` and `ip -6 route`, or their JSON.

    Parameters
    ----------
    family : int, optional
        4 or 6; both, IPv4 first, by default.
    table : int, optional
        The table; None is `table all`.
    """
    routes = [
        route
        for wanted in ((4, 6) if family is None else (family,))
        for route in netns.routes
        if route.dst.family == wanted and (table is None or route.table == table)
    ]
    shown = MAIN if table is None else table
    dead = {device.name for device in netns.devices.values() if device.up and not _has_carrier(netns, device)}
    if json:
        return _json([_route_json(route, shown, dead) for route in routes])
    return "".join(_route_text(route, shown, dead) for route in routes)


def _dst(route: Route) -> str:
    if route.dst.length == 0:
        return "default"
    return _host_or_prefix(route.dst)


def _host_or_prefix(p: Prefix) -> str:
    return str(p.address) if p.length == p.address.bits else str(p)


def _table_name(number: int) -> str:
    return TABLE_NAMES.get(number, str(number))


def _hop_flags(hop: NextHop, dead: set[str]) -> list[str]:
    return (["onlink"] if hop.onlink else []) + (["linkdown"] if hop.dev in dead else [])


def _gateway(route: Route, hop: NextHop) -> str:
    assert hop.via is not None
    return str(hop.via) if hop.via.family == route.dst.family else f"inet6 {hop.via}"


def _dev_of(route: Route) -> str | None:
    """IPv6 holds routes without a next hop on lo (ip6_route_info_create)."""
    if route.dst.family == 6 and route.type in _NO_NEXTHOP:
        return "lo"
    return None


def _route_text(route: Route, shown: int, dead: set[str]) -> str:
    words = [route.type.value] if route.type is not RouteType.UNICAST else []
    words.append(_dst(route))
    if route.unknown:
        words.append(route.unknown)
    single = route.nexthops[0] if len(route.nexthops) == 1 else None
    if single is not None:
        words += ["via", _gateway(route, single)] if single.via is not None else []
        words += ["dev", single.dev]
    elif (dev := _dev_of(route)) is not None:
        words += ["dev", dev]
    if route.table != shown:
        words += ["table", _table_name(route.table)]
    if route.protocol != "boot":
        words += ["proto", route.protocol]
    if route.scope != "global":
        words += ["scope", route.scope]
    if route.src is not None:
        words += ["src", str(route.src)]
    if route.metric or route.dst.family == 6:
        words += ["metric", str(route.metric)]
    if single is not None:
        words += _hop_flags(single, dead)
    if route.mtu is not None:
        words += ["mtu", str(route.mtu)]
    if route.dst.family == 6:
        words += ["pref", "medium"]
    text = " ".join(words) + ("" if route.dst.family == 6 else " ")
    if len(route.nexthops) > 1:
        for hop in route.nexthops:
            via = f"via {_gateway(route, hop)} " if hop.via is not None else ""
            flags = "".join(f"{flag} " for flag in _hop_flags(hop, dead))
            text += f"\n\tnexthop {via}dev {hop.dev} weight {hop.weight} {flags}"
    return text + "\n"


def _route_json(route: Route, shown: int, dead: set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if route.type is not RouteType.UNICAST:
        row["type"] = route.type.value
    row["dst"] = _dst(route)
    if route.unknown:
        row["netlab_unknown"] = route.unknown
    single = route.nexthops[0] if len(route.nexthops) == 1 else None
    if single is not None:
        row.update(_hop_json(route, single))
    elif (dev := _dev_of(route)) is not None:
        row["dev"] = dev
    if route.table != shown:
        row["table"] = _table_name(route.table)
    if route.protocol != "boot":
        row["protocol"] = route.protocol
    if route.scope != "global":
        row["scope"] = route.scope
    if route.src is not None:
        row["prefsrc"] = str(route.src)
    if route.metric or route.dst.family == 6:
        row["metric"] = route.metric
    row["flags"] = _hop_flags(single, dead) if single is not None else []
    if route.mtu is not None:
        row["metrics"] = [{"mtu": route.mtu}]
    if route.dst.family == 6:
        row["pref"] = "medium"
    if len(route.nexthops) > 1:
        row["nexthops"] = [
            {**_hop_json(route, hop), "weight": hop.weight, "flags": _hop_flags(hop, dead)} for hop in route.nexthops
        ]
    return row


def _hop_json(route: Route, hop: NextHop) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if hop.via is not None and hop.via.family == route.dst.family:
        row["gateway"] = str(hop.via)
    elif hop.via is not None:
        row["via"] = {"family": "inet6", "host": str(hop.via)}
    row["dev"] = hop.dev
    return row


def print_rule(netns: Netns, *, family: int | None = None, json: bool = False) -> str:
    """`ip rule` and `ip -6 rule` (`family` None: both), or `ip -j rule`."""
    rules = [rule for wanted in ((4, 6) if family is None else (family,)) for rule in netns.rules if rule.family == wanted]
    if json:
        return _json([_rule_json(rule) for rule in rules])
    return "".join(_rule_text(rule) for rule in rules)


def _rule_text(rule: PolicyRule) -> str:
    words = ["not"] if rule.invert else []
    words += ["from", _host_or_prefix(rule.src) if rule.src is not None else "all"]
    if rule.dst is not None:
        words += ["to", _host_or_prefix(rule.dst)]
    if rule.fwmark is not None:
        words += ["fwmark", hex(rule.fwmark) + ("" if rule.fwmask == 0xFFFFFFFF else f"/{rule.fwmask:#x}")]
    words += ["iif", rule.iif] if rule.iif else []
    words += ["oif", rule.oif] if rule.oif else []
    words += [rule.unknown] if rule.unknown else []
    words += ["ipproto", protocol_name(rule.protocol)] if rule.protocol is not None else []
    for name, ports in (("sport", rule.sport), ("dport", rule.dport)):
        if ports is not None:
            words += [name, str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}-{ports[1]}"]
    words += ["lookup", _table_name(rule.table)] if rule.table is not None else [rule.action]
    if rule.suppress_prefixlength is not None:
        words += ["suppress_prefixlength", str(rule.suppress_prefixlength)]
    return f"{rule.priority}:\t" + " ".join(words) + "\n"


def _rule_json(rule: PolicyRule) -> dict[str, Any]:
    row: dict[str, Any] = {"priority": rule.priority}
    if rule.invert:
        row["not"] = None
    row["src"] = str(rule.src.address) if rule.src is not None else "all"
    if rule.src is not None and rule.src.length != rule.src.address.bits:
        row["srclen"] = rule.src.length
    if rule.dst is not None:
        row["dst"] = str(rule.dst.address)
        if rule.dst.length != rule.dst.address.bits:
            row["dstlen"] = rule.dst.length
    if rule.fwmark is not None:
        row["fwmark"] = hex(rule.fwmark)
        if rule.fwmask != 0xFFFFFFFF:
            row["fwmask"] = hex(rule.fwmask)
    if rule.iif:
        row["iif"] = rule.iif
    if rule.oif:
        row["oif"] = rule.oif
    if rule.unknown:
        row["netlab_unknown"] = rule.unknown
    if rule.protocol is not None:
        row["ipproto"] = protocol_name(rule.protocol)
    for name, ports in (("sport", rule.sport), ("dport", rule.dport)):
        if ports is not None and ports[0] == ports[1]:
            row[name] = ports[0]
        elif ports is not None:
            row[f"{name}_start"], row[f"{name}_end"] = ports
    if rule.table is not None:
        row["table"] = _table_name(rule.table)
    else:
        row["action"] = rule.action
    if rule.suppress_prefixlength is not None:
        row["suppress_prefixlen"] = rule.suppress_prefixlength
    return row


# --- printing: neighbours and bridge ports -------------------------------------------------------------------------------------


def print_neigh(netns: Netns, *, json: bool = False) -> str:
    """`ip neigh`, or `ip -j neigh`; entries that answer for others (`ip neigh show proxy`) come last."""
    entries = sorted(netns.neighbours, key=lambda entry: (entry.proxy, entry.ip.family))
    if json:
        return _json([_neigh_json(entry) for entry in entries])
    return "".join(_neigh_text(entry) for entry in entries)


def _neigh_text(entry: Neighbour) -> str:
    if entry.proxy:
        return f"{entry.ip} dev {entry.dev} proxy \n"
    mac = f"lladdr {entry.mac} " if entry.mac else ""
    return f"{entry.ip} dev {entry.dev} {mac}{entry.state} \n"


def _neigh_json(entry: Neighbour) -> dict[str, Any]:
    row: dict[str, Any] = {"dst": str(entry.ip), "dev": entry.dev}
    if entry.proxy:
        row["proxy"] = None
        return row
    if entry.mac:
        row["lladdr"] = entry.mac
    row["state"] = [entry.state]
    return row


def print_fdb(netns: Netns, *, json: bool = False) -> str:
    """`bridge fdb`, or `bridge -j fdb`. The multicast addresses that devices listen to (`33:33:...  self`) are not held."""
    if json:
        return _json([_fdb_json(entry) for entry in netns.fdb])
    return "".join(_fdb_text(entry) for entry in netns.fdb)


def _fdb_text(entry: FdbEntry) -> str:
    words = [entry.mac, "dev", entry.dev]
    words += ["dst", str(entry.dst)] if entry.dst is not None else []
    words += ["vlan", str(entry.vlan)] if entry.vlan is not None else []
    words += ["master", entry.master] if entry.master else ["self"]
    return " ".join(words) + f" {entry.state}\n"


def _fdb_json(entry: FdbEntry) -> dict[str, Any]:
    row: dict[str, Any] = {"mac": entry.mac, "ifname": entry.dev}
    if entry.dst is not None:
        row["dst"] = str(entry.dst)
    if entry.vlan is not None:
        row["vlan"] = entry.vlan
    row["flags"] = [] if entry.master else ["self"]
    if entry.master:
        row["master"] = entry.master
    row["state"] = entry.state
    return row


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return msgspec.json.encode(rows).decode() + "\n"


# --- reading -------------------------------------------------------------------------------------------------------------------


class Link(msgspec.Struct, frozen=True):
    """One device as `ip -j link` or `ip -j addr` tells it.

    `device.kind` is OTHER where the document does not say what it is; `detailed` says that it came from `ip -d`, so that a
    device without a kind is a physical one. `has_addresses` says that it came from `ip addr`.
    """

    device: Device
    detailed: bool
    has_addresses: bool


def parse_link(text: str, file: str) -> tuple[Link, ...]:
    """Read `ip -j link`, `ip -d -j link`, `ip -j addr` or `ip -d -j addr`."""
    return _with_links([(_link(row), row) for row in _rows(text, file, "ip -d -j link")])


def parse_addr(text: str, file: str) -> tuple[Link, ...]:
    """Read `ip -j addr`; a document without addresses (`ip -j link`) is refused."""
    links = []
    for row in _rows(text, file, "ip -j addr"):
        if "addr_info" not in row.value:
            row.fail('has no "addr_info"', 'save it with "ip -j addr"')
        links.append((_link(row), row))
    return _with_links(links)


def _with_links(links: list[tuple[Link, _Row]]) -> tuple[Link, ...]:
    """Resolve `"link": NAME`, which stands for `link_index` where the other device is in the same namespace."""
    index_of: dict[str, int] = {}
    for link, row in links:
        name = link.device.name
        if name in index_of:
            row.fail(f'device "{name}" is there twice')
        index_of[name] = link.device.index
    found = []
    for link, row in links:
        if "link" in row.value and row.text("link") in index_of:
            device = msgspec.structs.replace(link.device, link_index=index_of[row.text("link")])
            link = msgspec.structs.replace(link, device=device)
        found.append(link)
    return tuple(found)


def parse_route(text: str, file: str) -> tuple[Route, ...]:
    """Read `ip -j route`, `ip -6 -j route` or `ip -j route show table all` (both families)."""
    return tuple(route for row in _rows(text, file, "ip -j route show table all") if (route := _read_route(row)) is not None)


def parse_rule(text: str, file: str, family: int = 4) -> tuple[PolicyRule, ...]:
    """Read `ip -j rule` or `ip -6 -j rule`."""
    return tuple(_read_rule(row, family) for row in _rows(text, file, "ip -j rule"))


def parse_neigh(text: str, file: str) -> tuple[Neighbour, ...]:
    """Read `ip -j neigh`."""
    found = []
    for row in _rows(text, file, "ip -j neigh"):
        states = row.texts("state")
        found.append(
            Neighbour(
                row.text("dev"),
                row.ip("dst"),
                row.mac("lladdr") if "lladdr" in row.value else None,
                state=states[0] if states else "NONE",
                proxy="proxy" in row.value,
            )
        )
    return tuple(found)


def parse_fdb(text: str, file: str) -> tuple[FdbEntry, ...]:
    """Read `bridge -j fdb`."""
    found = []
    for row in _rows(text, file, "bridge -j fdb"):
        found.append(
            FdbEntry(
                row.text("ifname"),
                row.mac("mac"),
                row.ip("dst") if "dst" in row.value else None,
                row.text("master") if "master" in row.value else None,
                row.text("state", ""),
                row.number("vlan") if "vlan" in row.value else None,
            )
        )
    return tuple(found)


class _Row:
    """An object of the document, with the checks of its fields and its place for messages."""

    __slots__ = ("file", "path", "value")

    def __init__(self, value: dict[str, Any], file: str, path: str) -> None:
        self.value = value
        self.file = file
        self.path = path

    def fail(self, what: str, hint: str | None = None) -> NoReturn:
        raise InputError(what, Ref(file=self.file, path=self.path), hint)

    def _get(self, key: str, kind: type[T], name: str, default: T | None) -> T:
        if key not in self.value:
            if default is None:
                self.fail(f'"{key}" is missing')
            return default
        found = self.value[key]
        if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
            self.fail(f'"{key}" is {_show(found)}, not {name}')
        return found

    def text(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, "text", default)

    def number(self, key: str, default: int | None = None) -> int:
        found = self._get(key, int, "a number", default)
        if found < 0:
            self.fail(f'"{key}" is negative: {found}')
        return found

    def flag(self, key: str) -> bool:
        return self._get(key, bool, "true or false", False)

    def texts(self, key: str) -> list[str]:
        found = self._get(key, list, "a list", [])
        if not all(isinstance(item, str) for item in found):
            self.fail(f'"{key}" is {_show(found)}, not a list of texts')
        return found

    def sub(self, key: str) -> _Row:
        return _Row(self._get(key, dict, "an object", {}), self.file, f"{self.path}.{key}")

    def subs(self, key: str) -> Iterator[_Row]:
        for n, item in enumerate(self._get(key, list, "a list", [])):
            if not isinstance(item, dict):
                self.fail(f'"{key}"[{n}] is {_show(item)}, not an object')
            yield _Row(item, self.file, f"{self.path}.{key}[{n}]")

    def _parsed(self, key: str, parse: Callable[[str], T], name: str) -> T:
        text = self.text(key)
        try:
            return parse(text)
        except ValueError:
            self.fail(f'"{key}" is {_show(text)}, not {name}')

    def ip(self, key: str) -> Ip:
        return self._parsed(key, ip, "an IP address")

    def prefix(self, key: str) -> Prefix:
        return self._parsed(key, prefix, "an address or a prefix")

    def mac(self, key: str) -> str:
        return self._parsed(key, _mac, "a MAC address")

    def hex(self, key: str) -> int:
        found = self.value[key]
        return found if isinstance(found, int) and not isinstance(found, bool) else self._parsed(key, _integer, "a number")

    def table(self) -> int:
        """A table by number or name. Names of /etc/iproute2/rt_tables stand for a number that only the node knows: they get
        one that follows from the name, so that rules and routes still meet."""
        if isinstance(self.value.get("table"), int):
            return self.number("table")
        name = self.text("table", "main")
        if name.isascii() and name.isdigit():
            return int(name)
        return _TABLE_NUMBERS.get(name) or (zlib.crc32(name.encode()) | 1 << 31)

    def rest(self, known: Iterable[str]) -> str | None:
        """What else is there, as text."""
        return " ".join(f"{key} {_plain(value)}" for key, value in self.value.items() if key not in known) or None


def _rows(text: str, file: str, command: str) -> Iterator[_Row]:
    """The objects of a document: a list, in which iproute2 leaves empty objects for what a filter hid."""
    hint = f'save it with "{command}"'
    if not text.strip():
        raise InputError("is empty", Ref(file=file), hint)
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"is not JSON ({error})", Ref(file=file), hint) from None
    if not isinstance(document, list):
        raise InputError(f"is {_show(document)}, not a list", Ref(file=file), hint)
    for n, item in enumerate(document):
        if not isinstance(item, dict):
            raise InputError(f"is {_show(item)}, not an object", Ref(file=file, path=f"[{n}]"), hint)
        if item:
            yield _Row(item, file, f"[{n}]")


def _show(value: Any) -> str:
    match value:
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            text = msgspec.json.encode(value).decode()
            return text if len(text) <= 40 else text[:37] + "..."


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _mac(text: str) -> str:
    if len(text.split(":")) != 6:
        raise ValueError(text)
    return bytes.fromhex(text.replace(":", "")).hex(":")


def _integer(text: str) -> int:
    return int(text, 0)


def _link(row: _Row) -> Link:
    kind, vxlan, hairpin = DeviceKind.OTHER, None, False
    link_type = row.text("link_type", "ether")
    info = row.sub("linkinfo")
    match info.text("info_kind", ""):
        case "veth":
            kind = DeviceKind.VETH
        case "bridge":
            kind = DeviceKind.BRIDGE
        case "ipip":
            kind = DeviceKind.IPIP
        case "dummy":
            kind = DeviceKind.DUMMY
        case "vxlan":
            vxlan = _vxlan(info.sub("info_data"))
            kind = DeviceKind.VXLAN if vxlan is not None else DeviceKind.OTHER
        case "" if link_type == "loopback":
            kind = DeviceKind.LOOPBACK
        case "" if link_type == "ipip":
            kind = DeviceKind.IPIP
        case "" if "promiscuity" in row.value and link_type == "ether":
            kind = DeviceKind.PHYSICAL
    if info.text("info_slave_kind", "") == "bridge":
        hairpin = info.sub("info_slave_data").flag("hairpin")
    mac = row.text("address", "")
    device = Device(
        row.text("ifname"),
        kind,
        row.number("ifindex"),
        mac=row.mac("address") if mac.count(":") == 5 else mac,  # an ipip device has an IPv4 address there
        mtu=row.number("mtu"),
        up="UP" in row.texts("flags"),
        master=row.text("master") if "master" in row.value else None,
        hairpin=hairpin,
        vxlan=vxlan,
        addresses=tuple(_address(item) for item in row.subs("addr_info") if item.value),
        lower_up="LOWER_UP" in row.texts("flags"),
        link_index=row.number("link_index") if "link_index" in row.value else None,
        link_netnsid=row.number("link_netnsid") if "link_netnsid" in row.value else None,
    )
    return Link(device, "promiscuity" in row.value, "addr_info" in row.value)


def _vxlan(data: _Row) -> Vxlan | None:
    """None for a tunnel without a fixed VNI and local address (`external`): it takes them from elsewhere."""
    key = next((key for key in ("local", "local6") if key in data.value), None)
    if key is None or "id" not in data.value:
        return None
    return Vxlan(
        data.number("id"),
        data.ip(key),
        data.number("port", 8472),
        data.flag("learning"),
        data.text("link") if "link" in data.value else None,
    )


def _address(row: _Row) -> Address:
    address = row.ip("local") if "local" in row.value else row.ip("address")
    length = row.number("prefixlen")
    if length > address.bits:
        row.fail(f'"prefixlen" is {length}, more than {address.bits}')
    peer = row.ip("address") if "local" in row.value and "address" in row.value else None
    return Address(address, length, row.text("scope", "global"), row.ip("broadcast") if "broadcast" in row.value else None, peer)


# Fields of a route that do not decide where a packet goes, beside those that are read.
# fmt: off
_ROUTE_KNOWN = frozenset([
    "type", "dst", "gateway", "via", "dev", "table", "protocol", "scope", "prefsrc", "metric", "flags", "metrics", "pref",
    "nexthops", "nhid", "weight", "cache", "uid", "expires", "age", "error", "users", "used", "ipid", "ts", "tsage",
])
# fmt: on


def _read_route(row: _Row) -> Route | None:
    """One route; None where every next hop is dead: a lookup passes it over (fib_table_lookup, RTNH_F_DEAD)."""
    kind = _ROUTE_TYPES.get(row.text("type", "unicast"))
    unknown = row.rest(_ROUTE_KNOWN)
    if "netlab_unknown" in row.value:
        unknown = row.text("netlab_unknown")
    if kind is None:
        unknown = f"type {row.text('type')}" + (f" {unknown}" if unknown else "")
        kind = RouteType.UNICAST
    family = _family_of(row)
    dst = Prefix(family, 0, 0) if row.text("dst") == "default" else row.prefix("dst")
    hops: list[NextHop] = []
    if kind not in _NO_NEXTHOP:
        entries = list(row.subs("nexthops")) if "nexthops" in row.value else [row]
        living = [entry for entry in entries if "dead" not in entry.texts("flags")]
        if not living:
            return None
        hops = [_nexthop(entry) for entry in living]
    mtu = next((item.number("mtu") for item in row.subs("metrics") if isinstance(item.value.get("mtu"), int)), None)
    return Route(
        dst,
        tuple(hops),
        kind,
        src=row.ip("prefsrc") if "prefsrc" in row.value else None,
        metric=row.number("metric", 0),
        table=row.table(),
        scope=_scope(row),
        protocol=row.text("protocol", "boot"),
        mtu=mtu,
        ref=Ref(file=row.file, path=row.path),
        unknown=unknown,
    )


def _scope(row: _Row) -> str:
    return row.text("scope", "global")


def _family_of(row: _Row) -> int:
    """The family of a route whose destination may be "default": only IPv6 routes have a router preference (`pref`)."""
    if row.text("dst") != "default":
        return row.prefix("dst").family
    if "gateway" in row.value:
        return row.ip("gateway").family
    return 6 if "pref" in row.value else 4


def _nexthop(row: _Row) -> NextHop:
    via = None
    if "gateway" in row.value:
        via = row.ip("gateway")
    elif "via" in row.value:
        via = row.sub("via").ip("host")
    return NextHop(row.text("dev"), via, row.number("weight", 1), "onlink" in row.texts("flags"))


# fmt: off
_RULE_KNOWN = frozenset([
    "priority", "not", "src", "srclen", "dst", "dstlen", "fwmark", "fwmask", "iif", "iif_detached", "oif", "oif_detached",
    "ipproto", "sport", "sport_start", "sport_end", "dport", "dport_start", "dport_end", "table", "suppress_prefixlen",
    "action", "protocol",
])
# fmt: on


def _read_rule(row: _Row, family: int) -> PolicyRule:
    unknown = row.rest(_RULE_KNOWN)
    if "netlab_unknown" in row.value:
        unknown = row.text("netlab_unknown")
    action, table = "lookup", None
    if "table" in row.value:
        table = row.table()
    else:
        action = row.text("action", "")
        if action not in _RULE_ACTIONS:
            unknown = " ".join(word for word in (unknown, f"action {action}" if action else "") if word)
    protocol = None
    if "ipproto" in row.value:
        name = _plain(row.value["ipproto"])
        protocol = PROTOCOL_NUMBERS.get(name.removeprefix("ipproto-"))
        if protocol is None and name.isascii() and name.isdigit():
            protocol = int(name)
        if protocol is None:
            unknown = " ".join(word for word in (unknown, f"ipproto {name}") if word)
    return PolicyRule(
        row.number("priority", 0),
        table,
        family,
        src=_selector(row, "src", "srclen", family),
        dst=_selector(row, "dst", "dstlen", family),
        fwmark=row.hex("fwmark") if "fwmark" in row.value else None,
        fwmask=row.hex("fwmask") if "fwmask" in row.value else 0xFFFFFFFF,
        iif=row.text("iif") if "iif" in row.value else None,
        oif=row.text("oif") if "oif" in row.value else None,
        protocol=protocol,
        sport=_ports(row, "sport"),
        dport=_ports(row, "dport"),
        invert="not" in row.value,
        action=action,
        suppress_prefixlength=row.number("suppress_prefixlen") if "suppress_prefixlen" in row.value else None,
        unknown=unknown,
    )


def _selector(row: _Row, key: str, length_key: str, family: int) -> Prefix | None:
    if row.value.get(key, "all") == "all":
        return None
    address = row.ip(key)
    if address.family != family:
        row.fail(f'"{key}" is {address}, not an IPv{family} address')
    length = row.number(length_key, address.bits)
    if length > address.bits:
        row.fail(f'"{length_key}" is {length}, more than {address.bits}')
    return prefix(f"{address}/{length}")


def _ports(row: _Row, key: str) -> tuple[int, int] | None:
    if key in row.value:
        return (row.number(key), row.number(key))
    if f"{key}_start" in row.value:
        return (row.number(f"{key}_start"), row.number(f"{key}_end"))
    return None
