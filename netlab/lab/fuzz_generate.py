"""Random rulesets and random packets for the fuzzer, drawn from one small pool of values so that they meet.

Law: a generator is a function of its random numbers; whatever it makes, iptables-restore takes. It knows what may stand where
(iptables-extensions(8), the `hooks` and `table` of net/netfilter/xt_*.c), nothing of what a rule does.
Left out: what depends on rates, clocks or processes (limit, hashlimit, owner --uid-owner), and what netlab calls unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TypeVar

from msgspec.structs import replace

from netlab.lab.frames import header_length
from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.addr import Ip, ip, mask_of
from netlab.linux.hooks import IPTABLES_TABLES
from netlab.linux.packet import ACK, FIN, ICMP, ICMPV6, PSH, RST, SYN, TCP, UDP, URG, Packet
from netlab.linux.rules import Chain, Hook, Rule, Ruleset, Table

T = TypeVar("T")

TABLES = ("raw", "mangle", "nat", "filter")
SENDERS = {4: ("10.1.0.2", "10.1.0.3", "10.1.0.20"), 6: ("fd00:1::2", "fd00:1::3", "fd00:1::14")}
RECEIVERS = {4: ("10.2.0.2", "10.2.0.3", "10.2.0.20"), 6: ("fd00:2::2", "fd00:2::3", "fd00:2::14")}
OWN = {4: ("10.1.0.1", "10.2.0.1"), 6: ("fd00:1::1", "fd00:2::1")}
VIRTUAL = {4: ("10.96.0.1", "10.96.0.10"), 6: ("fd00:96::1", "fd00:96::a")}
BEYOND = {4: ("172.16.5.4",), 6: ("fd00:77::4",)}
PORTS = (53, 80, 81, 443, 1023, 1024, 8080, 40000, 40001, 65535)
MARKS = (0, 1, 2, 3, 0x4000, 0x4001, 0x8000)
MASKS = (0xFFFFFFFF, 0xFFFFFFFF, 1, 3, 0x4000, 0xC000, 0xFF00)
TTLS = (64, 64, 64, 64, 63, 65, 255, 3, 2, 1)
LENGTHS = {4: (0, 0, 0, 60, 61, 84, 100, 1000), 6: (0, 0, 0, 80, 81, 104, 120, 1000)}
LISTS = ("seen", "other")  # of -m recent

SETS = {
    4: """create ips hash:ip family inet hashsize 1024 maxelem 65536
add ips 10.1.0.2
add ips 10.2.0.20
add ips 10.96.0.1
create nets hash:net family inet hashsize 1024 maxelem 65536
add nets 10.1.0.0/24
add nets 10.1.0.3 nomatch
add nets 10.2.0.0/28
create ipports hash:ip,port family inet hashsize 1024 maxelem 65536
add ipports 10.2.0.2,tcp:80
add ipports 10.2.0.2,udp:53
add ipports 10.1.0.2,tcp:40000
add ipports 10.2.0.1,tcp:80
add ipports 10.96.0.1,tcp:80
add ipports 10.2.0.2,icmp:ping
create pairs hash:ip,port,ip family inet hashsize 1024 maxelem 65536
add pairs 10.1.0.2,tcp:80,10.2.0.2
add pairs 10.1.0.3,udp:53,10.2.0.3
create ports bitmap:port range 0-65535
add ports 53
add ports 80
add ports 1024
create faces hash:net,iface family inet hashsize 1024 maxelem 65536
add faces 10.1.0.0/24,eth0
add faces 10.2.0.0/24,eth0
add faces 10.2.0.0/24,eth1
create both list:set size 8
add both ips
add both nets
""",
    6: """create ips hash:ip family inet6 hashsize 1024 maxelem 65536
add ips fd00:1::2
add ips fd00:2::14
add ips fd00:96::1
create nets hash:net family inet6 hashsize 1024 maxelem 65536
add nets fd00:1::/64
add nets fd00:1::3 nomatch
add nets fd00:2::/124
create ipports hash:ip,port family inet6 hashsize 1024 maxelem 65536
add ipports fd00:2::2,tcp:80
add ipports fd00:2::2,udp:53
add ipports fd00:1::2,tcp:40000
add ipports fd00:2::2,ipv6-icmp:echo-request
create pairs hash:ip,port,ip family inet6 hashsize 1024 maxelem 65536
add pairs fd00:1::2,tcp:80,fd00:2::2
create ports bitmap:port range 0-65535
add ports 53
add ports 80
add ports 1024
create faces hash:net,iface family inet6 hashsize 1024 maxelem 65536
add faces fd00:1::/64,eth0
add faces fd00:2::/64,eth1
create both list:set size 8
add both ips
add both nets
""",
}
_DIMENSIONS = {"ips": 1, "nets": 1, "ipports": 2, "pairs": 3, "ports": 1, "faces": 2, "both": 1}

REJECTS = {
    4: ("net-unreachable", "host-unreachable", "proto-unreachable", "port-unreachable", "net-prohibited", "host-prohibited",
        "admin-prohibited"),
    6: ("no-route", "adm-prohibited", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route"),
}  # fmt: skip

_HAS_IN = {Hook.PREROUTING, Hook.INPUT, Hook.FORWARD}
_HAS_OUT = {Hook.FORWARD, Hook.OUTPUT, Hook.POSTROUTING}
_HAS_SOCKET = {Hook.OUTPUT, Hook.POSTROUTING}


class Maker:
    """Draws everything for one family from one source of random numbers; without `recent` where its lists cannot be emptied."""

    def __init__(self, rng: Random, family: int, recent: bool = True) -> None:
        self.rng, self.family, self.recent = rng, family, recent
        self.icmp = ICMP if family == 4 else ICMPV6
        self.limit = mask_of(family, 32 if family == 4 else 128)
        self.addresses = [
            ip(text) for group in (SENDERS, RECEIVERS, RECEIVERS, OWN, VIRTUAL, BEYOND) for text in group[family]
        ]

    def one(self, values: Sequence[T]) -> T:
        return self.rng.choice(values)

    def often(self, percent: int) -> bool:
        return self.rng.random() * 100 < percent

    def among(self, *groups: Mapping[int, tuple[str, ...]]) -> Ip:
        return ip(self.one([text for group in groups for text in group[self.family]]))

    # -- rulesets ------------------------------------------------------------------------------------------------------

    def ruleset(self) -> Ruleset:
        """Four tables; each base chain with a chain of its own and one that all base chains of the table share."""
        return Ruleset(tuple(self._table(name) for name in TABLES))

    def _table(self, name: str) -> Table:
        hooks = IPTABLES_TABLES[name]
        chains: dict[str, Chain] = {}
        shared = [] if name == "nat" else ["ANY-A", "ANY-B"]
        for hook, priority in hooks.items():
            own = [f"{hook.value[:4]}-{letter}" for letter in "AB"]
            policy = "DROP" if self.often({"filter": 25, "mangle": 3, "raw": 3, "nat": 0}[name]) else "ACCEPT"
            rules = self._rules(name, {hook}, [*own, *shared], 2, 6)
            chains[hook.value] = Chain(hook.value, rules, hook, priority, policy)
            chains[own[0]] = Chain(own[0], self._rules(name, {hook}, [own[1], *shared], 1, 4))
            chains[own[1]] = Chain(own[1], self._rules(name, {hook}, shared, 0, 3))
        if shared:
            chains["ANY-A"] = Chain("ANY-A", self._rules(name, set(hooks), ["ANY-B"], 1, 4))
            chains["ANY-B"] = Chain("ANY-B", self._rules(name, set(hooks), [], 0, 3))
        return Table("ip" if self.family == 4 else "ip6", name, chains)

    def _rules(self, table: str, hooks: set[Hook], chains: list[str], fewest: int, most: int) -> tuple[Rule, ...]:
        return tuple(self.rule(table, hooks, chains) for _ in range(self.rng.randint(fewest, most)))

    def rule(self, table: str, hooks: set[Hook], chains: list[str]) -> Rule:
        """A rule that may stand in a chain of `table` that `hooks` lead to; jumps lead to `chains`."""
        protocol = self.one((None, None, None, TCP, TCP, UDP, self.icmp))
        head: list[m.Match] = []
        if self.often(20):
            value, mask = self._masked()
            head.append(m.Source(self.family, value, mask, bool(mask) and self.often(25)))  # iptables-nft refuses ! 0.0.0.0/0
        if self.often(25):
            value, mask = self._masked()
            head.append(m.Destination(self.family, value, mask, bool(mask) and self.often(25)))
        if self.often(12) and (hooks <= _HAS_IN or len(hooks) > 1):
            head.append(m.InInterface(self._device(), self.often(30)))
        if self.often(12) and (hooks <= _HAS_OUT or len(hooks) > 1):
            head.append(m.OutInterface(self._device(), self.often(30)))
        negated = protocol is not None and self.often(8)
        if protocol is not None:
            head.append(m.Protocol(protocol, negated))
        rest: list[m.Match] = []
        if protocol is not None and not negated and self.often(50):
            rest.append(self._transport(protocol))
        for _ in range(self.one((0, 0, 0, 1, 1, 1, 2, 3))):
            found = self._plain(table, hooks)
            if type(found) not in [type(other) for other in rest]:
                rest.append(found)
        return Rule((*head, *rest), self._target(table, hooks, None if negated else protocol, chains))

    def _masked(self) -> tuple[int, int]:
        full = 32 if self.family == 4 else 128
        lengths = (full, full, 24, 28, 16, 8, 0) if self.family == 4 else (full, full, 64, 124, 32, 16, 0)
        mask = mask_of(self.family, self.one(lengths)) if self.often(92) else self.limit ^ (0xFF << 8)
        return self.one(self.addresses).value & mask, mask

    def _device(self) -> str:
        return self.one(("eth0", "eth0", "eth1", "eth1", "eth+", "lo", "+", "none"))

    def _range(self) -> m.PortRange:
        low = self.one(PORTS)
        return m.PortRange(low, low) if self.often(60) else m.PortRange(*sorted((low, self.one(PORTS))))

    def _transport(self, protocol: int) -> m.Match:
        if protocol == self.icmp:
            kinds = ((8, 0), (0, 0), (3, 3), (3, 1), (11, 0)) if self.family == 4 else ((128, 0), (129, 0), (1, 4), (3, 0))
            kind, code = self.one(kinds)
            if self.family == 4 and self.often(10):
                return m.Icmp(4, 255, (0, 255), False)
            return m.Icmp(self.family, kind, (code, code) if self.often(30) else (0, 255), self.often(25))
        if self.often(25):
            ports = tuple(self._range() for _ in range(self.rng.randint(1, 4)))
            return m.Multiport(self.one(("sports", "dports", "ports")), ports, self.often(25))
        sides: dict[str, m.PortRange | bool] = {}
        for side in ("sport", "dport"):
            if self.often(30 if side == "sport" else 60):
                sides |= {side: self._range(), f"not_{side}": self.often(25)}
        single = [r for r in (sides.get("sport"), sides.get("dport")) if isinstance(r, m.PortRange) and r.low == r.high]
        if len(single) == 2 and sides["not_sport"] and sides["not_dport"]:
            sides["not_dport"] = False  # iptables-nft 1.8.9 makes one comparison of both, which holds unless both are equal
        if protocol == UDP:
            return m.Udp(**sides)  # type: ignore[arg-type]
        if self.often(35):
            flags = self.one(((FIN | SYN | RST | ACK, SYN), (SYN, SYN), (ACK, ACK), (RST, RST), (63, 0), (SYN | ACK, SYN | ACK)))
            return m.Tcp(**sides, flags=flags, not_flags=self.often(25))  # type: ignore[arg-type]
        return m.Tcp(**sides)  # type: ignore[arg-type]

    def _marked(self) -> tuple[int, int]:
        mask = self.one(MASKS)
        return (self.one(MARKS) & mask if self.often(90) else self.one(MARKS)), mask

    def _plain(self, table: str, hooks: set[Hook]) -> m.Match:
        no = self.often(30)
        makers = ["mark", "mark", "connmark", "conntrack", "conntrack", "state", "addrtype", "set", "set", "iprange", "ttl"]
        makers += ["length", "pkttype", "physdev", "comment"]
        if self.recent:
            makers.append("recent")
        if self.often(15):
            makers.append("statistic")
        if hooks <= _HAS_IN:
            makers.append("mac")
        if hooks <= _HAS_SOCKET:
            makers.append("owner")
        if hooks == {Hook.PREROUTING} and table in ("raw", "mangle"):
            makers.append("rpfilter")
        match self.one(makers):
            case "mark":
                return m.Mark(*self._marked(), no)
            case "connmark":
                return m.Connmark(*self._marked(), no)
            case "conntrack":
                return self._conntrack()
            case "state":
                return m.State(frozenset(self.rng.sample(m.CT_STATES[:5], self.rng.randint(1, 2))), no)
            case "addrtype":
                return self._addrtype(hooks)
            case "set":
                name = self.one(tuple(_DIMENSIONS))
                dims = tuple(self.one(("src", "dst")) for _ in range(_DIMENSIONS[name]))
                return m.SetMatch(name, dims, no, return_nomatch=self.often(10))
            case "iprange":
                low, high = sorted((self.one(self.addresses), self.one(self.addresses)))
                return m.Iprange(src=(low, high), not_src=no) if self.often(50) else m.Iprange(dst=(low, high), not_dst=no)
            case "ttl":
                op = self.one(("eq", "lt", "gt"))
                return m.Ttl(self.family, op, self.one((1, 2, 3, 62, 63, 64, 65, 254)), no if op == "eq" else False)
            case "length":
                first, last = self.one((0, 28, 40, 48, 60, 61, 68, 80, 88)), self.one((40, 60, 84, 100, 128, 1000, 65535))
                return m.Length(min(first, last), max(first, last), no)
            case "pkttype":
                return m.Pkttype(self.one(("unicast", "broadcast", "multicast")), no)
            case "physdev":
                return m.Physdev(is_bridged=True, not_is_bridged=no) if self.often(50) else m.Physdev(is_in=True, not_is_in=no)
            case "recent":
                mask = "255.255.255.255" if self.family == 4 else "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
                action, side = self.one(("set", "set", "rcheck", "update", "remove")), self.one(("source", "dest"))
                return m.Recent(action, no, name=self.one(LISTS), mask=mask, side=side)
            case "statistic":
                if self.often(50):
                    return m.Statistic(threshold=self.one((0, 1 << 30, 1 << 31)), negate=no)
                every = self.one((1, 2, 3))
                return m.Statistic(every=every, packet=self.rng.randrange(every), negate=no)
            case "mac":
                return m.Mac(self.one(("02:00:00:00:01:02", "02:00:00:00:02:02")), no)
            case "owner":
                return m.Owner(socket_exists=True, not_socket_exists=no)
            case "rpfilter":
                return m.Rpfilter(loose=self.often(30), validmark=self.often(30), accept_local=self.often(30), invert=no)
            case _:
                return m.Comment(self.one(("plain", "two words", 'a "quoted" one')))

    def _conntrack(self) -> m.Conntrack:
        given: dict[str, object] = {}
        if self.often(60):
            states = m.CT_STATES if self.often(80) else ("SNAT", "DNAT")
            given |= {"states": frozenset(self.rng.sample(states, self.rng.randint(1, 2))), "not_states": self.often(25)}
        if not given or self.often(30):
            match self.rng.randrange(5):
                case 0:
                    given["direction"] = self.one(("ORIGINAL", "REPLY"))
                case 1:
                    status = self.one(("SEEN_REPLY", "ASSURED", "CONFIRMED", "EXPECTED"))
                    given |= {"status": frozenset({status}), "not_status": self.often(30)}
                case 2:
                    side = self.one(("orig_src", "orig_dst", "repl_src", "repl_dst"))
                    value, mask = self.one(self.addresses).value, self._masked()[1]  # host bits and all
                    given |= {side: m.AddressMask(self.family, value, mask), f"not_{side}": self.often(30)}
                case 3:
                    side = self.one(("orig_src_port", "orig_dst_port", "repl_src_port", "repl_dst_port"))
                    given |= {side: self._range(), f"not_{side}": self.often(30)}
                case _:
                    given |= {"protocol": self.one((TCP, UDP, self.icmp)), "not_protocol": self.often(30)}
        return m.Conntrack(**given)  # type: ignore[arg-type]

    def _addrtype(self, hooks: set[Hook]) -> m.Addrtype:
        limit = ""
        if self.often(30):
            limits = [way for way, devices in (("in", _HAS_IN), ("out", _HAS_OUT)) if hooks <= devices]
            limit = self.one(limits) if limits else ""
        types = ("LOCAL", "LOCAL", "UNICAST", "BROADCAST" if self.family == 4 else "ANYCAST", "MULTICAST")
        asked = frozenset({self.one(types)})
        if self.often(50):
            return m.Addrtype(dst_types=asked, not_dst=self.often(30), limit=limit)
        return m.Addrtype(src_types=asked, not_src=self.often(30), limit=limit)

    # -- targets -------------------------------------------------------------------------------------------------------

    def _target(self, table: str, hooks: set[Hook], protocol: int | None, chains: list[str]) -> t.Target | None:
        common = {"none": 12, "accept": 6, "return": 8, "mark": 12, "jump": 30 if chains else 0}
        common["connmark"] = 0 if table == "raw" else 10
        own = {
            "raw": {"notrack": 6, "zone": 8, "drop": 2},
            "mangle": {"drop": 2},
            "nat": {"nat": 60},
            "filter": {"drop": 8, "reject": 14, "accept": 14},
        }[table]
        weights = common | own
        match self.rng.choices(list(weights), list(weights.values()))[0]:
            case "accept":
                return t.Accept()
            case "return":
                return t.Return()
            case "drop":
                return t.Drop()
            case "jump":
                return t.Jump(self.one(chains), self.often(25))
            case "mark":
                return t.SetMark(self.one(MARKS), self.one(MASKS))
            case "connmark":
                if self.often(40):
                    return t.SetConnmark("set", self.one(MARKS), self.one(MASKS))
                return t.SetConnmark(self.one(("save", "restore")), ctmask=self.one(MASKS), nfmask=self.one(MASKS))
            case "notrack":
                return t.Ct(notrack=True, bare=self.often(50))
            case "zone":
                return t.Ct(zone=self.one((1, 2)), zone_direction=self.one(("", "", "orig", "reply")))
            case "reject":
                if protocol == TCP and self.often(50):
                    return t.Reject("tcp-reset")
                return t.Reject(("icmp-" if self.family == 4 else "icmp6-") + self.one(REJECTS[self.family]))
            case "nat":
                return self._nat(next(iter(hooks)), protocol)
            case _:
                return None

    def _nat(self, hook: Hook, protocol: int | None) -> t.Target:
        ports = protocol in (TCP, UDP)
        dst = hook in (Hook.PREROUTING, Hook.OUTPUT)
        if self.often(15):
            length = self.one((32, 28, 24) if self.family == 4 else (128, 124, 64))
            mask = mask_of(self.family, length)
            base = self.among(RECEIVERS, SENDERS) if dst else self.among(RECEIVERS, BEYOND, OWN)
            return t.Netmap(self.family, base.value & mask, mask)
        if dst and self.often(25):
            return t.Redirect(self._ports(ports, 50, self.often(15)))
        if dst:
            return t.Dnat(self._span(self.among(RECEIVERS, RECEIVERS, SENDERS, OWN), ports, self.often(10)))
        if hook is Hook.POSTROUTING and self.often(50):
            return t.Masquerade(self._ports(ports, 25, self.often(15)))
        return t.Snat(self._span(self.among(OWN, BEYOND, RECEIVERS, VIRTUAL), ports, self.often(10)))

    def _span(self, low: Ip, ports: bool, random: bool) -> t.NatRange:
        span = self._ports(ports, 40, random)
        high = Ip(low.family, low.value + self.one((1, 2))) if self.often(15) else None
        if span.port_low is not None and self.often(20):
            return span
        return t.NatRange(low, high, span.port_low, span.port_high, random=random, persistent=self.often(5))

    def _ports(self, may: bool, percent: int, random: bool) -> t.NatRange:
        if not may or not self.often(percent):
            return t.NatRange(random=random)
        low = self.one(PORTS[:-1])
        return t.NatRange(port_low=low, port_high=low + self.one((1, 2)) if self.often(30) else None, random=random)

    # -- packets -------------------------------------------------------------------------------------------------------

    def opening(self) -> tuple[str, Packet]:
        """Where a first packet is put in ("sender", "receiver", "router"), and the packet."""
        at = self.one(("sender",) * 5 + ("receiver",) * 2 + ("router",) * 3)
        if at == "router":
            src = self.among(OWN)
            dst = self.among(RECEIVERS, RECEIVERS, SENDERS, VIRTUAL, OWN)
        else:
            here, there = (SENDERS, RECEIVERS) if at == "sender" else (RECEIVERS, SENDERS)
            src = self.among(here) if self.often(85) else self.among(BEYOND, OWN, there, here)
            dst = self.among(there, there, VIRTUAL, OWN) if self.often(93) else self.among(here, BEYOND)
        kind = self.one((TCP,) * 10 + (UDP,) * 8 + (self.icmp,) * 6 + (47, 253))
        if src == dst and at != "router":
            kind = self.icmp  # with ports, one tuple could stand for both directions
        packet = Packet(src, dst, kind, ttl=self.one(TTLS), df=self.family == 6 or self.often(50))
        if kind in (TCP, UDP):
            fields = {"sport": self.one(PORTS), "dport": self.one(PORTS)}
            if src == dst and fields["sport"] == fields["dport"]:
                fields["dport"] = fields["sport"] % 60000 + 1
            if kind == TCP:
                odd = (ACK, RST, FIN, 0, SYN | FIN, FIN | PSH | URG, SYN | ACK, SYN | PSH, PSH | ACK, RST | ACK, FIN | ACK)
                fields["tcp_flags"] = SYN if self.often(80) else self.one(odd)
            return at, self.sized(packet, **fields)
        if kind == self.icmp:
            echo, reply = (8, 0) if self.family == 4 else (128, 129)
            others = (reply, 13, 17) if self.family == 4 else (reply,)
            if at == "router":  # netlab takes what leaves here as echo replies to be the kernel's own
                others = (echo,)
            return at, self.sized(packet, icmp_type=echo if self.often(85) else self.one(others), icmp_id=self.one(PORTS))
        return at, self.sized(packet)

    def sized(self, packet: Packet, **fields: int) -> Packet:
        """The packet with these fields and some length that it may have."""
        found = replace(packet, **fields)
        return replace(found, length=max(self.one(LENGTHS[self.family]), header_length(found), 28 if self.family == 4 else 48))
