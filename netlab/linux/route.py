"""Routing: policy rules, tables, longest prefix, source address selection and validation, for one namespace.

Law: as net/ipv4/{fib_rules,fib_trie,fib_semantics,fib_frontend,route,devinet}.c and net/ipv6/{fib6_rules,route,addrconf}.c
decide. Equal-cost next hops are all returned: the caller forks. Nothing is cached between namespaces: the index of a
namespace lives in its own `cache`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from netlab.linux.addr import Ip, Prefix, host_prefix, mask_of
from netlab.linux.netns import (
    DEFAULT,
    LOCAL,
    MAIN,
    Address,
    Device,
    DeviceKind,
    Netns,
    NextHop,
    PolicyRule,
    Route,
    RouteType,
)

TABLE_NAMES = {MAIN: "main", LOCAL: "local", DEFAULT: "default"}

_DEFAULT_RULES = ((0, LOCAL), (32766, MAIN), (32767, DEFAULT))  # net/ipv4/fib_rules.c fib_default_rules_init
_BAD = {RouteType.BLACKHOLE, RouteType.UNREACHABLE, RouteType.PROHIBIT}


class Found(msgspec.Struct, frozen=True):
    """What a lookup found: the route, one of its next hops (None for types that have none), the policy rule that led there.

    `weight` is the next hop's share among the `alternatives` of one route.
    """

    type: RouteType
    route: Route | None
    nexthop: NextHop | None
    table: int = MAIN
    rule: int = 32766
    weight: int = 1
    undecided: str | None = None

    @property
    def dev(self) -> str:
        """The device that the route names."""
        return self.nexthop.dev if self.nexthop is not None else ""

    @property
    def out(self) -> str:
        """The device that a packet made here leaves through: lo where it is for the host itself (route.c)."""
        return "lo" if self.type is RouteType.LOCAL else self.dev

    @property
    def via(self) -> Ip | None:
        return self.nexthop.via if self.nexthop is not None else None


UNREACHABLE = Found(RouteType.UNREACHABLE, None, None)  # no rule led to a route


class Fib:
    """The routes of one namespace, indexed: (family, table) -> prefix length -> network -> routes by metric."""

    def __init__(self, netns: Netns) -> None:
        self.of = (netns.routes, netns.rules, netns.devices)
        self.tables: dict[tuple[int, int], dict[int, dict[int, list[Route]]]] = {}
        self.lengths: dict[tuple[int, int], list[int]] = {}
        self.up = {name for name, device in netns.devices.items() if device.up}
        self.local_addresses: set[Ip] = {a.ip for d in netns.devices.values() for a in d.addresses}
        for route in netns.routes:
            self._add(route)
        self._add_derived(netns.devices.values())
        for key, by_length in self.tables.items():
            self.lengths[key] = sorted(by_length, reverse=True)
            for by_value in by_length.values():
                for routes in by_value.values():
                    routes.sort(key=lambda r: r.metric)
        self.rules = {
            family: sorted((r for r in netns.rules if r.family == family), key=lambda r: r.priority)
            or [PolicyRule(priority, table, family) for priority, table in _DEFAULT_RULES]
            for family in (4, 6)
        }

    def _add(self, route: Route) -> None:
        prefix = route.dst
        table = self.tables.setdefault((prefix.family, route.table), {})
        table.setdefault(prefix.length, {}).setdefault(prefix.value, []).append(route)

    def _add_derived(self, devices: Iterable[Device]) -> None:
        """Local and broadcast routes that the kernel makes for every address (fib_add_ifaddr), where a dump left them out."""
        for device in devices:
            for address in device.addresses:
                host = host_prefix(address.ip)
                self._derive(Route(host, (NextHop(device.name),), RouteType.LOCAL, src=address.ip, table=LOCAL, scope="host"))
                if address.ip.family == 4 and address.length < 31 and device.kind is not DeviceKind.LOOPBACK:
                    mask = mask_of(4, address.length)
                    last = Ip(4, address.ip.value & mask | ~mask & 0xFFFFFFFF)
                    hop = (NextHop(device.name),)
                    self._derive(Route(host_prefix(last), hop, RouteType.BROADCAST, src=address.ip, table=LOCAL, scope="link"))
            if device.kind is DeviceKind.LOOPBACK and device.up:
                hop = (NextHop(device.name),)
                loop = Ip(4, 0x7F000001)
                self._derive(Route(Prefix(4, 0x7F000000, 8), hop, RouteType.LOCAL, src=loop, table=LOCAL, scope="host"))
                self._derive(Route(Prefix(6, 1, 128), hop, RouteType.LOCAL, src=Ip(6, 1), table=LOCAL, scope="host"))

    def _derive(self, route: Route) -> None:
        known = self.tables.get((route.dst.family, LOCAL), {}).get(route.dst.length, {}).get(route.dst.value)
        if not known:
            self._add(route)

    def in_table(self, table: int, dst: Ip, oif: str = "") -> Route | None:
        """The best route of one table: longest prefix, then lowest metric, whose device is up (and is `oif`, where given)."""
        key = (dst.family, table)
        by_length = self.tables.get(key)
        if by_length is None:
            return None
        for length in self.lengths[key]:
            routes = by_length[length].get(dst.value & mask_of(dst.family, length))
            if not routes:
                continue
            for route in routes:
                if not route.nexthops:
                    return route
                alive = route.type is RouteType.LOCAL  # fib_add_ifaddr: an address is the host's own though its device is down
                if any((alive or hop.dev in self.up) and (not oif or hop.dev == oif) for hop in route.nexthops):
                    return route
        return None


def fib(netns: Netns) -> Fib:
    """The namespace's index, made on first use and again when a copy with other routes was made."""
    known = netns.cache.get("fib")
    if isinstance(known, Fib) and known.of[0] is netns.routes and known.of[1] is netns.rules and known.of[2] is netns.devices:
        return known
    made = Fib(netns)
    netns.cache["fib"] = made
    return made


def _rule_selects(rule: PolicyRule, dst: Ip, src: Ip | None, mark: int, iif: str, oif: str) -> bool:
    selected = (
        (rule.src is None or (src is not None and src in rule.src))
        and (rule.dst is None or dst in rule.dst)
        and (rule.fwmark is None or mark & rule.fwmask == rule.fwmark & rule.fwmask)
        and (rule.iif is None or rule.iif == (iif or "lo"))  # locally made packets look up with iif lo
        and (rule.oif is None or rule.oif == oif)
    )
    return selected is not rule.invert


def lookup(netns: Netns, dst: Ip, *, src: Ip | None = None, mark: int = 0, iif: str = "", oif: str = "") -> list[Found]:
    """Find the route to `dst`: the equal-cost alternatives of the winning route, or one Found that says why there is none.

    Rules in order of priority; a table without an answer, or a `throw` route in it, goes on to the next rule
    (fib_rules.c). `iif` is the device that the packet came in through, "" for a packet made here.
    """
    index = fib(netns)
    for rule in index.rules[dst.family]:
        if not _rule_selects(rule, dst, src, mark, iif, oif):
            continue
        if rule.unknown is not None or rule.sport is not None or rule.dport is not None or rule.protocol is not None:
            what = rule.unknown or "ports or protocol"
            return [Found(RouteType.UNREACHABLE, None, None, rule=rule.priority, undecided=f"ip rule {rule.priority}: {what}")]
        if rule.action in ("blackhole", "unreachable", "prohibit"):
            return [Found(RouteType(rule.action), None, None, rule=rule.priority)]
        if rule.table is None:
            continue
        route = index.in_table(rule.table, dst, oif)
        if route is None or route.type is RouteType.THROW:
            continue
        if rule.suppress_prefixlength is not None and route.dst.length <= rule.suppress_prefixlength:
            continue
        if route.unknown is not None:
            doubt = f"route {route_text(route)}: {route.unknown}"
            return [Found(route.type, route, None, rule.table, rule.priority, undecided=doubt)]
        if not route.nexthops:
            return [Found(route.type, route, None, rule.table, rule.priority)]
        alive = route.type is RouteType.LOCAL
        hops = [h for h in route.nexthops if (alive or h.dev in index.up) and (not oif or h.dev == oif)]
        return [Found(route.type, route, h, rule.table, rule.priority, h.weight) for h in hops]
    return [UNREACHABLE]


def address_type(netns: Netns, address: Ip, dev: str | None = None) -> RouteType:
    """What kind of address this is here (net/ipv4/fib_frontend.c inet_addr_type: the local table alone decides).

    With `dev`, a local or broadcast route counts only if it is that device's.
    """
    if address.family == 4:
        if address.value >> 24 == 0 or address.value == 0xFFFFFFFF:
            return RouteType.BROADCAST
        if address.is_multicast:
            return RouteType.MULTICAST
    elif address.is_multicast:
        return RouteType.MULTICAST
    route = fib(netns).in_table(LOCAL, address)
    if route is None or (dev is not None and all(hop.dev != dev for hop in route.nexthops)):
        return RouteType.UNICAST
    return route.type


def is_local(netns: Netns, address: Ip) -> bool:
    """Would a packet to this address be for the namespace itself?"""
    return address_type(netns, address) is RouteType.LOCAL


def select_source(netns: Netns, dev: str, towards: Ip, universe: bool = False) -> Ip | None:
    """The address that a packet leaving through `dev` takes (devinet.c inet_select_addr; IPv6: RFC 6724 rules 2, 5, 8).

    The first address of the device in whose subnet `towards` lies, else the device's first, else the first of any other
    device, in the order of their indexes: there no subnet is preferred. IPv6 takes the device's link-local address where no
    device has any other. `universe`: addresses of scope global alone will do, even towards 127.0.0.1 (MASQUERADE).
    """
    device = netns.devices.get(dev)
    others = [d for d in netns.devices.values() if d.name != dev]
    if towards.family == 6 and towards in fib(netns).local_addresses:  # rule 1: the address itself
        return towards
    for group in ([device] if device else [], others):
        usable = [a for d in group for a in d.addresses if _may_source(a, towards) and not (universe and a.scope != "global")]
        if not usable:
            continue
        if towards.family == 6:  # ipv6_get_saddr_eval, rule 8: no more bits than the prefix has; the first of equals stays
            return max(usable, key=lambda a: min(_common_bits(a.ip, towards), a.length)).ip
        for address in usable if group is not others else ():
            if towards.value & mask_of(4, address.length) == address.ip.value & mask_of(4, address.length):
                return address.ip
        return usable[0].ip
    if towards.family == 6 and device is not None:  # rule 2 prefers wider scopes, but does without
        return next((a.ip for a in device.addresses if a.ip.is_link_local), None)
    return None


def _may_source(address: Address, towards: Ip) -> bool:
    if address.ip.family != towards.family:
        return False
    if towards.family == 4:
        return address.scope != "host" or towards.is_loopback
    if address.ip.is_link_local:
        return towards.is_link_local
    return address.scope != "host" or towards.is_loopback


def _common_bits(a: Ip, b: Ip) -> int:
    return a.bits - (a.value ^ b.value).bit_length()


def source_for(netns: Netns, found: Found, dst: Ip) -> Ip | None:
    """The source of a packet made here: the route's prefsrc, else by selection; a local destination is its own source.

    IPv4 selects for the gateway (fib_semantics.c fib_info_update_nhc_saddr), IPv6 for the destination (ip6_route_get_saddr).
    """
    if found.route is not None and found.route.src is not None:
        return found.route.src
    if found.type is RouteType.LOCAL:
        return dst
    towards = found.via if dst.family == 4 and found.via is not None else dst  # IPv4 fits the gateway, IPv6 the destination
    return select_source(netns, found.dev, towards)


def rp_filter(netns: Netns, dev: str) -> int:
    """The mode in force on a device: the larger of `all` and the device's own (ip-sysctl: rp_filter)."""
    own = netns.sysctl(f"ipv4.conf.{dev}.rp_filter", netns.sysctl("ipv4.conf.default.rp_filter"))
    return max(netns.sysctl("ipv4.conf.all.rp_filter"), own)


def source_refusal(netns: Netns, src: Ip, dst: Ip, dev: str, mark: int = 0) -> str | None:
    """Why a packet from `src` is refused on `dev`, or None (fib_frontend.c fib_validate_source; IPv6 has no such check).

    A packet from one of our own addresses that comes in through a wire is a martian unless accept_local is set; with
    rp_filter 1 the way back must lead through `dev`, with 2 there must be a way back.
    """
    if src.family == 6:
        return None
    if src.is_multicast or src.value == 0xFFFFFFFF:
        return f"martian source {src}"
    if src.is_loopback and not route_localnet(netns, dev):
        return f"martian source {src} (loopback address from a wire; route_localnet is off)"
    accept_local = netns.sysctl(f"ipv4.conf.{dev}.accept_local") or netns.sysctl("ipv4.conf.all.accept_local")
    if not accept_local and src in fib(netns).local_addresses:
        return f"martian source {src} (an address of this host)"
    mode = rp_filter(netns, dev)
    if mode == 0:
        return None
    valid_mark = netns.sysctl("ipv4.conf.all.src_valid_mark") or netns.sysctl(f"ipv4.conf.{dev}.src_valid_mark")
    back = lookup(netns, src, src=dst, mark=mark if valid_mark else 0, iif=dev)
    if back[0].type is RouteType.LOCAL and accept_local:
        return None
    if back[0].type is not RouteType.UNICAST:
        return f"rp_filter={mode}: no route back to {src}"
    if mode == 1 and all(found.dev != dev for found in back):
        return f"rp_filter=1: the way back to {src} is through {back[0].dev}, not {dev}"
    return None


def reverse_path_ok(
    netns: Netns, src: Ip, dst: Ip, dev: str, mark: int, *, loose: bool, validmark: bool, accept_local: bool
) -> bool:
    """`-m rpfilter` (net/ipv4/netfilter/ipt_rpfilter.c): would a packet to `src` leave through `dev` (or, loose, at all)?"""
    if src.value == 0 or src.is_multicast:
        return src.value == 0 and src.family == 4  # zero source: let through (rpfilter_mt)
    back = lookup(netns, src, src=dst if src.family == 4 else None, mark=mark if validmark else 0)
    kind = back[0].type
    if kind is not RouteType.UNICAST and not (kind is RouteType.LOCAL and accept_local):
        return False
    if kind is RouteType.LOCAL and src.family == 6:
        return True
    return loose or any(found.dev == dev for found in back)  # IPv4: a local route's device is the one that has the address


def route_localnet(netns: Netns, dev: str) -> bool:
    """May 127.0.0.0/8 cross this device (ip-sysctl: route_localnet)?"""
    return bool(netns.sysctl("ipv4.conf.all.route_localnet") or netns.sysctl(f"ipv4.conf.{dev}.route_localnet"))


def forwarding(netns: Netns, family: int, dev: str) -> bool:
    """Does the namespace forward packets that come in through `dev`?"""
    if family == 4:
        return bool(
            netns.sysctl(f"ipv4.conf.{dev}.forwarding", netns.sysctl("ipv4.conf.all.forwarding", netns.sysctl("ipv4.ip_forward")))
        )
    return bool(netns.sysctl("ipv6.conf.all.forwarding"))


def cached_route_text(netns: Netns, route: Route) -> str:
    """`route_text`, remembered by the namespace."""
    texts = netns.cache.setdefault("route texts", {})
    assert isinstance(texts, dict)
    known = texts.get(id(route))  # the entry holds the route, so that its id stays its own
    if known is None:
        known = texts[id(route)] = (route_text(route), route)
    text: str = known[0]
    return text


def route_text(route: Route) -> str:
    """The route as `ip route` prints it."""
    parts = [] if route.type is RouteType.UNICAST else [route.type.value]
    host_bits = route.dst.address.bits
    if route.dst.length == 0:
        parts.append("default")
    elif route.dst.length == host_bits:
        parts.append(str(route.dst.address))
    else:
        parts.append(str(route.dst))
    if len(route.nexthops) == 1:
        parts.append(_hop_text(route.nexthops[0]))
    if route.table not in (MAIN, LOCAL):
        parts.append(f"table {route.table}")
    if route.protocol not in ("boot", ""):
        parts.append(f"proto {route.protocol}")
    if route.scope not in ("global", ""):
        parts.append(f"scope {route.scope}")
    if route.src is not None:
        parts.append(f"src {route.src}")
    if route.metric:
        parts.append(f"metric {route.metric}")
    if route.mtu:
        parts.append(f"mtu {route.mtu}")
    if len(route.nexthops) == 1 and route.nexthops[0].onlink:
        parts.append("onlink")
    if len(route.nexthops) > 1:
        parts += [f"nexthop {_hop_text(hop)} weight {hop.weight}" for hop in route.nexthops]
    return " ".join(parts)


def _hop_text(hop: NextHop) -> str:
    return f"via {hop.via} dev {hop.dev}" if hop.via is not None else f"dev {hop.dev}"
