"""What Linux itself adds when a device comes up and when an address is put on it.

Law: the routes of table local, the connected routes, link-local addresses and policy rules are those that
`ip -j route show table all` and `ip -j rule` print after the same commands on a kernel; nothing here reads a cluster.
Sources: net/ipv4/fib_frontend.c (fib_add_ifaddr, fib_magic), net/ipv4/fib_trie.c, net/ipv6/addrconf.c, net/ipv6/ip6_fib.c.
Not derived: temporary (privacy) addresses, router advertisements, routes of addresses that have a peer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netlab.linux.addr import Ip, Prefix, host_prefix, mask_of
from netlab.linux.netns import (
    DEFAULT,
    LOCAL,
    MAIN,
    Address,
    Device,
    DeviceKind,
    NextHop,
    PolicyRule,
    Route,
    RouteType,
)

RULES: tuple[PolicyRule, ...] = (  # fib_default_rules_init; IPv6 has no rule for table default (fib6_rules_net_init_default)
    PolicyRule(0, LOCAL, 4),
    PolicyRule(32766, MAIN, 4),
    PolicyRule(32767, DEFAULT, 4),
    PolicyRule(0, LOCAL, 6),
    PolicyRule(32766, MAIN, 6),
)

LOOPBACK_ADDRESSES = (Address(Ip(4, 0x7F000001), 8, "host"), Address(Ip(6, 1), 128, "host"))

IP6_USER_METRIC = 1024  # IP6_RT_PRIO_USER: the metric of an IPv6 route that was added without one
_CONNECTED6_METRIC = 256  # IP6_RT_PRIO_ADDRCONF
_LINK_LOCAL_NET = Prefix(6, 0xFE80 << 112, 64)
_MULTICAST_NET = Prefix(6, 0xFF << 120, 8)


def loopback(extra: Sequence[Address] = ()) -> Device:
    """`lo` as every new namespace has it once it is up, with `extra` addresses."""
    addresses = (*LOOPBACK_ADDRESSES, *extra)
    return Device("lo", DeviceKind.LOOPBACK, 1, mac="00:00:00:00:00:00", mtu=65536, addresses=addresses)


def link_local(mac: str) -> Address:
    """The IPv6 link-local address of a device: EUI-64 of its MAC (RFC 4291, appendix A).

    >>> str(link_local("02:00:0a:00:00:01"))
    'fe80::aff:fe00:1/64'
    """
    octets = int(mac.replace(":", ""), 16)
    eui64 = ((octets >> 24) << 40 | 0xFFFE << 24 | octets & 0xFFFFFF) ^ (2 << 56)
    return Address(Ip(6, 0xFE80 << 112 | eui64), 64, "link")


def with_broadcast(ip: Ip, length: int) -> Address:
    """An address as DHCP clients, systemd-networkd and CNI plug-ins add it: IPv4 with its subnet's broadcast address."""
    if ip.family == 6 or length > 30:
        return Address(ip, length)
    return Address(ip, length, broadcast=Ip(4, ip.value | 0xFFFFFFFF >> length))


def derived_routes(devices: Iterable[Device], forwarding6: bool) -> list[Route]:
    """The routes that Linux adds by itself for `devices` and their addresses, in the order of the devices.

    Parameters
    ----------
    devices : iterable of Device
        Those that are down add nothing, for they lost their routes when they went down. A dummy device is taken to have been
        down from the start (kube-ipvs0): addresses that it was given then are local, and no more (fib_frontend.c
        fib_add_ifaddr, addrconf.c ipv6_add_addr).
    forwarding6 : bool
        net.ipv6.conf.all.forwarding: routers also answer to the subnet-router anycast address (RFC 4291, 2.6.1;
        addrconf_join_anycast).
    """
    found: list[Route] = []
    for device in devices:
        if not device.up:
            if device.kind is DeviceKind.DUMMY:
                found += [_local(address.ip, (NextHop(device.name),)) for address in device.addresses]
            continue
        is_loopback = device.kind is DeviceKind.LOOPBACK
        hops = (NextHop(device.name),)
        primaries: dict[Prefix, Ip] = {}
        for address in device.addresses:
            if address.ip.family == 4:
                _add_v4(found, address, hops, is_loopback, primaries)
            else:
                _add_v6(found, address, hops, is_loopback, forwarding6)
        if not is_loopback:
            found.append(
                Route(_MULTICAST_NET, hops, RouteType.MULTICAST, metric=_CONNECTED6_METRIC, table=LOCAL, protocol="kernel")
            )
    return found


def _local(ip: Ip, hops: tuple[NextHop, ...]) -> Route:
    if ip.family == 6:
        return Route(host_prefix(ip), hops, RouteType.LOCAL, table=LOCAL, protocol="kernel")
    return Route(host_prefix(ip), hops, RouteType.LOCAL, src=ip, table=LOCAL, scope="host", protocol="kernel")


def _add_v4(found: list[Route], address: Address, hops: tuple[NextHop, ...], lo: bool, primaries: dict[Prefix, Ip]) -> None:
    ip, length = address.ip, address.length
    net = Prefix(4, ip.value & mask_of(4, length), length)
    secondary = net in primaries  # a second address of the same subnet: its routes prefer the first one's address
    src = primaries.setdefault(net, ip)
    found.append(Route(host_prefix(ip), hops, RouteType.LOCAL, src=src, table=LOCAL, scope="host", protocol="kernel"))
    if secondary:
        return
    if length < 32 and not lo:
        found.append(Route(net, hops, src=src, scope="link", protocol="kernel"))
    elif length < 32:  # all of 127.0.0.0/8 is local
        found.append(Route(net, hops, RouteType.LOCAL, src=src, table=LOCAL, scope="host", protocol="kernel"))
    if length < 31:
        last = Ip(4, net.value | 0xFFFFFFFF >> length)
        found.append(Route(host_prefix(last), hops, RouteType.BROADCAST, src=src, table=LOCAL, scope="link", protocol="kernel"))


def _add_v6(found: list[Route], address: Address, hops: tuple[NextHop, ...], lo: bool, forwarding: bool) -> None:
    ip, length = address.ip, address.length
    net = Prefix(6, ip.value & mask_of(6, length), length)
    found.append(_local(ip, hops))
    if not ip.is_loopback:
        found.append(Route(net, hops, metric=_CONNECTED6_METRIC, protocol="kernel"))
    if forwarding and length < 127 and not lo:
        found.append(Route(host_prefix(net.address), hops, RouteType.ANYCAST, table=LOCAL, protocol="kernel"))


def in_kernel_order(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Routes in the order in which `ip route show table all` and `ip -6 route show table all` list them.

    Tables follow their hash bucket (id modulo 256). Inside one, IPv4's trie is walked by address, the longer of two prefixes
    that begin at the same address first (fib_trie.c, leaf order); IPv6's tree is walked children first (ip6_fib.c,
    fib6_walk_continue), so that the default route comes last. Equal keys keep their order of arrival.
    """
    return tuple(sorted(routes, key=_kernel_key))


def _kernel_key(route: Route) -> tuple[int, int, int, int, int]:
    dst = route.dst
    value = dst.value if dst.family == 4 else dst.value | ~dst.mask & ((1 << 128) - 1)
    return (dst.family, route.table & 0xFF, value, -dst.length, route.metric)
