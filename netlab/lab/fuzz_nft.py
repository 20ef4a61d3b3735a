"""Random nft rulesets for the fuzzer, from the same pool of values as those of iptables (fuzz_generate.py).

    table FAMILY fuzz: sets, maps | chains that all hooks share | base chains of filter, route and nat

Law: a generator is a function of its random numbers; whatever it makes, nft loads. A rule counts (`counter`) just before its
end; where the last word may itself not hold (vmap, NAT by map) it does not count, and the chains behind it tell.
Left out: rates, clocks, users, and what netlab calls unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from msgspec.structs import replace

from netlab.lab.fuzz_generate import BEYOND, MARKS, MASKS, OWN, PORTS, RECEIVERS, SENDERS, VIRTUAL, Maker
from netlab.linux import nft as n
from netlab.linux.nft import (
    Compare,
    Element,
    NftChain,
    NftRule,
    NftSet,
    NftTable,
    SetLiteral,
    SetName,
    Statement,
    Value,
    table_name,
)
from netlab.linux.packet import TCP, UDP
from netlab.linux.rules import Hook, Ruleset
from netlab.linux.text.nft import read_text, write_text

Place = tuple[str, str, int]

_SHARED = 5  # chains without what only some hooks may hold; a jump leads to one with a higher number
_HAS_REJECT = (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD, Hook.OUTPUT)
_PRIORITIES = (-310, -300, -250, -200 + 1, -150, -110, -101, -99, -50, 0, 10, 50, 99, 101, 150, 300)
_NETS = {4: (("10.1.0.0", 28), ("10.2.0.0", 24), ("10.96.0.0", 16)), 6: (("fd00:1::", 124), ("fd00:2::", 64), ("fd00:96::", 32))}
_RANGES = ((1, 53), (80, 81), (1024, 8080), (40000, 65535))
_STATES = ("new", "established", "related", "invalid", "untracked")
_STATUSES = ("seen-reply", "assured", "confirmed", "snat", "dnat")


class NftMaker(Maker):
    """Draws nft rulesets; first packets are the other maker's."""

    def __init__(self, rng: Random, family: int) -> None:
        super().__init__(rng, family)
        self.ip = "ip" if family == 4 else "ip6"
        self.address = "ipv4_addr" if family == 4 else "ipv6_addr"
        self.l4 = {TCP: "tcp", UDP: "udp", self.icmp: "icmp" if family == 4 else "ipv6-icmp"}
        self.tracked = True
        self.inet = False

    # -- tables --------------------------------------------------------------------------------------------------------

    def nft_ruleset(self) -> Ruleset:
        """One or two tables, of the family and of inet."""
        self.tracked = self.often(85)
        tables = [self.table(self.ip, "fuzz")]
        if self.often(40):
            tables.append(self.table("inet", "more"))
        return Ruleset(nft_tables=tuple(tables))

    def table(self, family: str, name: str) -> NftTable:
        self.inet = family == "inet"
        shared = [f"any{i}" for i in range(_SHARED)]
        sets = self.sets(shared)
        chains: dict[str, NftChain] = {}
        for number, chain in enumerate(shared):
            chains[chain] = NftChain(chain, self.rules(shared[number + 1 :], None, 0, 4))
        for number, hook in enumerate(Hook):
            for letter in "ab"[: self.rng.choice((0, 1, 1, 2))]:
                policy = "drop" if self.often(8) else "accept"
                rules = self.rules(shared, hook, 1, 6)
                kind = "route" if hook is Hook.OUTPUT and self.often(40) else "filter"
                named = f"{hook.value.lower()}-{letter}"
                chains[named] = NftChain(named, rules, kind, hook, self.one(_PRIORITIES), policy)
            if hook is Hook.FORWARD or self.often(35):
                continue
            inner = f"nat{number}"
            chains[inner] = NftChain(inner, self.rules([], hook, 1, 4, nat=True))
            priority = self.one((-110, -100, -90) if hook in (Hook.PREROUTING, Hook.OUTPUT) else (90, 100, 110))
            policy = "drop" if self.often(3) else "accept"
            rules = self.rules([inner], hook, 1, 4, nat=True)
            chains[f"{inner}-base"] = NftChain(f"{inner}-base", rules, "nat", hook, priority, policy)
        return NftTable(family, name, chains, sets)

    def sets(self, chains: Sequence[str]) -> dict[str, NftSet]:
        ips = self.rng.sample(self.addresses, 5)
        unique = list(dict.fromkeys(str(each) for each in ips))
        nets = tuple(Element(n.PrefixValue(*net)) for net in self.rng.sample(_NETS[self.family], 2))
        pairs = {(self.one(unique), self.one(("tcp", "udp")), self.one(PORTS)) for _ in range(4)}
        tuples = tuple(n.Concat((Value(a), Value(p), Value(port))) for a, p, port in sorted(pairs))
        leaves = list(chains[-2:])
        spans = tuple(
            Element(n.Concat((n.PrefixValue(*net), n.RangeValue(Value(low), Value(high)))))
            for net, (low, high) in zip(_NETS[self.family], _RANGES, strict=False)
        )
        tags = tuple(Element(Value(each), Value(self.one(MARKS))) for each in unique[:4])
        where = tuple(Element(each, self._verdict(leaves)) for each in tuples)
        zones = tuple(replace(each, data=self._verdict(leaves)) for each in nets)
        found = [
            NftSet("ips", (self.address,), elements=tuple(Element(Value(each)) for each in unique[:3])),
            NftSet("nets", (self.address,), flags=("interval",), elements=nets),
            NftSet("ports", ("inet_service",), flags=("interval",), elements=tuple(map(self._port_element, (0, 1, 3)))),
            NftSet("pairs", (self.address, "inet_proto", "inet_service"), elements=tuple(map(Element, tuples))),
            NftSet("spans", (self.address, "inet_service"), flags=("interval",), elements=spans),
            NftSet("faces", ("ifname",), flags=("interval",), elements=(Element(Value("eth1*")), Element(Value("lo")))),
            NftSet("seen", (self.address,), flags=("dynamic", "timeout"), timeout=3600, size=1000),
            NftSet("tags", (self.address,), ("mark",), elements=tags),
            NftSet("where", (self.address, "inet_proto", "inet_service"), ("verdict",), elements=where),
            NftSet("zones", (self.address,), ("verdict",), ("interval",), zones),
        ]
        return {each.name: each for each in found}

    def _port_element(self, number: int) -> Element:
        low, high = _RANGES[number]
        return Element(n.RangeValue(Value(low), Value(high)))

    def _verdict(self, chains: Sequence[str]) -> n.Verdict:
        kind = self.one(("accept", "continue", "return", "jump", "jump", "goto", "drop"))
        if kind in ("jump", "goto"):
            return n.Verdict(kind, self.one(chains)) if chains else n.Verdict("continue")
        return n.Verdict(kind)

    # -- rules ---------------------------------------------------------------------------------------------------------

    def rules(self, chains: Sequence[str], hook: Hook | None, fewest: int, most: int, nat: bool = False) -> tuple[NftRule, ...]:
        return tuple(self.nft_rule(chains, hook, nat) for _ in range(self.rng.randint(fewest, most)))

    def nft_rule(self, chains: Sequence[str], hook: Hook | None, nat: bool = False) -> NftRule:
        """A rule of a chain at a hook (None: any); jumps lead to `chains`."""
        protocol = self.one((None, None, TCP, TCP, UDP, self.icmp))
        statements: list[Statement] = []
        if nat and protocol in (TCP, UDP):  # a port can be translated only behind its protocol
            statements.append(Compare(n.Meta("l4proto"), "==", Value(self.l4[protocol])))
        for _ in range(self.one((0, 1, 1, 2, 2, 3))):
            statements.append(self.compare(protocol, hook))
            if not nat and self.often(12):
                statements.append(self.effect())
        counter = n.Counter()
        if nat and hook is not None and self.often(45):
            last = self.nat_statement(hook, protocol)
            return NftRule((*statements, last) if isinstance(last.address, n.Lookup) else (*statements, counter, last))
        match self.rng.choices(("vmap", "effect", "verdict", "reject", "none"), (16, 30, 34, 10, 10))[0]:
            case "vmap" if not nat:
                return NftRule((*statements, self.vmap(chains, protocol)))
            case "effect" if not nat:
                return NftRule((*statements, self.effect(), counter))
            case "reject" if hook in _HAS_REJECT and not nat:
                return NftRule((*statements, *self.reject(protocol, counter)))
            case "verdict":
                kinds = ("accept", "return", "continue") + (("jump", "jump", "jump", "goto") if chains else ())
                kind = self.one(kinds + (() if self.often(70) else ("drop",)))
                verdict = n.Verdict(kind, self.one(chains) if kind in ("jump", "goto") else "")
                return NftRule((*statements, counter, verdict))
        return NftRule((*statements, counter))

    def reject(self, protocol: int | None, counter: n.Counter) -> tuple[Statement, ...]:
        if protocol == TCP and self.often(40):
            return Compare(n.Meta("l4proto"), "==", Value("tcp")), counter, n.RejectStatement("tcp reset")
        if self.often(40):
            return counter, n.RejectStatement()
        if self.inet and self.often(60):
            codes = ("admin-prohibited", "no-route", "host-unreachable")
            return counter, n.RejectStatement("icmpx", self.one(codes))
        if self.family == 4:
            codes4 = ("net-unreachable", "host-unreachable", "prot-unreachable", "net-prohibited", "admin-prohibited")
            return counter, n.RejectStatement("icmp", self.one(codes4))
        return counter, n.RejectStatement("icmpv6", self.one(("no-route", "admin-prohibited", "addr-unreachable")))

    def side(self) -> n.Payload:
        return n.Payload(self.ip, self.one(("saddr", "daddr")))

    def host(self) -> Value:
        return Value(str(self.one(self.addresses)))

    def compare(self, protocol: int | None, hook: Hook | None) -> Compare:
        kinds = ["address"] * 5 + ["device", "l4", "mark"] * 2 + ["length", "pkttype", "ttl", "fib", "fib", "concat"]
        kinds += ["numgen"] if self.often(20) else []
        kinds += ["hash"] if self.often(40) else []
        if self.tracked:
            kinds += ["ct"] * 5
        if protocol in (TCP, UDP):
            kinds += ["ports"] * 6
        if protocol == TCP:
            kinds += ["flags"] * 2
        if protocol == self.icmp:
            kinds += ["icmp"] * 3
        sign = self.one(("==", "==", "!="))
        match self.one(kinds):
            case "address":
                return Compare(self.side(), sign, self.some_address())
            case "device":
                return self.device(sign)
            case "l4":
                if protocol is None or self.often(30):
                    # `meta l4proto 253` alone, with `th dport` behind it, is what nft 1.0.6 cannot list
                    several = SetLiteral((Element(Value("sctp")), Element(Value(253))))
                    other = Value("sctp") if self.often(50) else several
                    return Compare(n.Meta("l4proto"), "!=" if protocol else sign, other)
                return Compare(n.Meta("l4proto"), "==", Value(self.l4[protocol]))
            case "mark":
                return self.marked(n.Meta("mark"), sign)
            case "length":
                return self.ordered(n.Meta("length"), (40, 60, 61, 80, 84, 100, 128), sign)
            case "pkttype":
                return Compare(n.Meta("pkttype"), sign, Value(self.one(("host", "broadcast", "multicast"))))
            case "ttl":
                return self.ordered(n.Payload(self.ip, "ttl" if self.family == 4 else "hoplimit"), (2, 62, 63, 64, 65), sign)
            case "fib":
                return self.fib(sign, hook)
            case "concat":
                return self.concat(protocol, sign)
            case "numgen":
                modulus = self.one((1, 2, 3, 10))
                return Compare(n.Numgen("random", modulus), self.one(("==", "!=", "<")), Value(self.rng.randrange(modulus)))
            case "hash":
                of = self.side() if self.often(40) else n.Concat((n.Payload(self.ip, "saddr"), n.Payload(self.ip, "daddr")))
                modulus = self.one((2, 3, 7))
                return Compare(n.Hashed(of, modulus, self.one((1, 0xDEADBEEF))), sign, Value(self.rng.randrange(modulus)))
            case "ct":
                return self.ct(sign)
            case "ports":
                return self.ports(protocol)
            case "flags":
                return self.flags()
            case _:
                name, echo = ("icmp", "echo-request") if self.family == 4 else ("icmpv6", "echo-request")
                kinds_ = [Value(echo), Value("echo-reply"), Value("destination-unreachable"), Value("time-exceeded")]
                if self.often(30):
                    return Compare(n.Payload(name, "code"), "==", Value(self.one((0, 1, 7))))
                return Compare(n.Payload(name, "type"), sign, self.literal(kinds_, 3))

    def literal(self, values: Sequence[Value], most: int) -> Value | SetLiteral:
        count = self.rng.randint(1, min(most, len(values)))
        chosen = self.rng.sample(list(values), count)
        return chosen[0] if count == 1 else SetLiteral(tuple(map(Element, chosen)))

    def some_address(self) -> n.Expression:
        match self.rng.randrange(6):
            case 0:
                return self.host()
            case 1:
                return n.PrefixValue(*self.one(_NETS[self.family]))
            case 2:
                low, high = sorted((self.one(self.addresses), self.one(self.addresses)))
                return n.RangeValue(Value(str(low)), Value(str(high))) if low != high else Value(str(low))
            case 3:
                return SetName(self.one(("ips", "nets", "seen")))
            case 4:
                nets = self.rng.sample(_NETS[self.family], 2)
                more = [Value(text) for text in BEYOND[self.family]]
                return SetLiteral(tuple(Element(n.PrefixValue(*net)) for net in nets) + tuple(map(Element, more)))
            case _:
                texts = self.rng.sample([str(a) for a in dict.fromkeys(self.addresses)], 3)
                return SetLiteral(tuple(Element(Value(text)) for text in texts))

    def device(self, sign: str) -> Compare:
        key = self.one(("iifname", "oifname", "iifname", "oifname", "iif", "oif"))
        if key in ("iif", "oif"):
            return Compare(n.Meta(key), sign, Value(self.one(("eth0", "eth1", "lo"))))
        if self.often(15):
            return Compare(n.Meta(key), sign, SetName("faces"))
        if self.often(20):
            return Compare(n.Meta(key), sign, SetLiteral((Element(Value("eth1")), Element(Value("lo")))))
        return Compare(n.Meta(key), sign, Value(self.one(("eth0", "eth1", "eth*", "lo", "e*", "none"))))

    def marked(self, key: n.Expression, sign: str) -> Compare:
        if self.often(60):
            return Compare(n.Binary("&", key, Value(self.one(MASKS[2:]))), sign, Value(self.one(MARKS)))
        if self.often(30):
            return Compare(key, self.one(("<", ">", "<=", ">=")), Value(self.one(MARKS[1:4])))
        if self.often(30):
            return Compare(key, sign, SetLiteral(tuple(Element(Value(v)) for v in self.rng.sample(MARKS, 3))))
        return Compare(key, sign, Value(self.one(MARKS)))

    def ordered(self, key: n.Expression, values: Sequence[int], sign: str) -> Compare:
        if self.often(40):
            return Compare(key, self.one(("<", ">", "<=", ">=")), Value(self.one(values)))
        low, high = sorted(self.rng.sample(list(values), 2))
        return Compare(key, sign, n.RangeValue(Value(low), Value(high)))

    def fib(self, sign: str, hook: Hook | None) -> Compare:
        side = self.one(("saddr", "daddr"))
        limit: tuple[str, ...] = ()
        if hook in (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD) and self.often(40):
            limit = ("iif",)
        if hook in (Hook.PREROUTING, Hook.INPUT, Hook.FORWARD) and self.often(40):
            limit = ("mark", *limit) if self.often(40) else limit
            if self.often(50):
                return Compare(n.Fib((side, *limit), "oif"), "==", Value(self.one(("missing", "exists"))))
            if self.often(50):
                return Compare(n.Fib((side, *limit), "oifname"), sign, Value(self.one(("eth0", "eth1", "lo"))))
            return Compare(n.Fib((side, *limit), "oif"), sign, Value(self.one(("eth0", "eth1"))))
        types = ("local", "local", "unicast", "broadcast" if self.family == 4 else "anycast", "multicast", "unreachable")
        return Compare(n.Fib((side, *limit), "type"), sign, self.literal([Value(kind) for kind in dict.fromkeys(types)], 2))

    def concat(self, protocol: int | None, sign: str) -> Compare:
        if protocol in (TCP, UDP):
            if self.often(40):
                key = n.Concat((n.Payload(self.ip, "daddr"), n.Payload(self.l4[protocol], "dport")))
                return Compare(key, sign, SetName("spans"))
            if self.often(40):
                key = n.Concat((n.Payload(self.l4[protocol], "dport"), n.Payload(self.ip, self.one(("saddr", "daddr")))))
                parts = [(Value(self.one(PORTS)), n.PrefixValue(*net)) for net in _NETS[self.family][:2]]
                return Compare(key, sign, SetLiteral(tuple(Element(n.Concat(part)) for part in parts)))
            key = n.Concat((n.Payload(self.ip, "daddr"), n.Meta("l4proto"), n.Payload("th", "dport")))
            return Compare(key, sign, SetName("pairs"))
        key = n.Concat((n.Meta("iifname"), n.Payload(self.ip, "saddr")))
        elements = {(self.one(("eth0", "eth1", "")) or "lo", str(self.one(self.addresses))) for _ in range(3)}
        return Compare(key, sign, SetLiteral(tuple(Element(n.Concat((Value(d), Value(a)))) for d, a in sorted(elements))))

    def ct(self, sign: str) -> Compare:
        match self.rng.randrange(9):
            case 0 | 1 | 2:
                chosen = self.rng.sample(_STATES, self.rng.randint(1, 2))
                values: n.Expression = Value(chosen[0]) if len(chosen) == 1 else n.ListValue(tuple(map(Value, chosen)))
                if self.often(20):
                    return Compare(n.CtKey("state"), sign, SetLiteral(tuple(Element(Value(each)) for each in chosen)))
                if len(chosen) == 1 and self.often(30):
                    return Compare(n.CtKey("state"), self.one(("!=", "==", "!")), values)
                return Compare(n.CtKey("state"), "in", values)
            case 3:
                status = Value(self.one(_STATUSES))
                if self.often(40):
                    return Compare(n.Binary("&", n.CtKey("status"), status), sign, status)
                return Compare(n.CtKey("status"), self.one(("in", "!")), status)
            case 4:
                return Compare(n.CtKey("direction"), sign, Value(self.one(("original", "reply"))))
            case 5 | 6:
                return self.marked(n.CtKey("mark"), sign)
            case 7:
                key = n.CtKey(self.one(("saddr", "daddr")), self.one(("original", "reply")), self.ip)
                value = self.host() if self.often(50) else n.PrefixValue(*self.one(_NETS[self.family]))
                return Compare(key, sign, value)
            case _:
                key = n.CtKey("zone", self.one(("", "original", "reply")))
                return Compare(key, sign, Value(self.one((0, 1, 2))))

    def ports(self, protocol: int | None) -> Compare:
        assert protocol is not None
        key = n.Payload(self.l4[protocol], self.one(("sport", "dport", "dport")))
        sign = self.one(("==", "==", "!="))
        match self.rng.randrange(6):
            case 0:
                low, high = self.one(_RANGES)
                return Compare(key, sign, n.RangeValue(Value(low), Value(high)))
            case 1:
                return Compare(key, sign, SetName("ports"))
            case 2:
                return Compare(key, self.one(("<", ">", "<=", ">=")), Value(self.one(PORTS[1:-1])))
            case 3:
                low, high = _RANGES[2]
                singles = self.rng.sample((53, 80, 443, 40000), 2)
                elements = (*(Element(Value(port)) for port in singles), Element(n.RangeValue(Value(low), Value(high))))
                return Compare(key, sign, SetLiteral(elements))
            case _:
                return Compare(key, sign, Value(self.one(PORTS)))

    def flags(self) -> Compare:
        key = n.Payload("tcp", "flags")
        all_ = n.ListValue((Value("fin"), Value("syn"), Value("rst"), Value("ack")))
        match self.rng.randrange(4):
            case 0:
                return Compare(n.Binary("&", key, all_), self.one(("==", "!=")), Value("syn"))
            case 1:
                return Compare(key, "in", Value(self.one(("syn", "ack", "rst", "fin"))))
            case 2:
                return Compare(key, "in", n.ListValue((Value("syn"), Value("ack"))))
            case _:
                mask = n.ListValue((Value("syn"), Value("ack")))
                return Compare(n.Binary("&", key, mask), "==", Value(self.one(("syn", "ack"))))

    # -- what rules do -------------------------------------------------------------------------------------------------

    def effect(self) -> Statement:
        kinds = ["mark"] * 5 + ["seen"] * 2
        if self.tracked:
            kinds += ["ctmark"] * 3 + ["restore"] * 2 + ["notrack", "zone"]
        mark = n.Meta("mark")
        match self.one(kinds):
            case "mark":
                match self.rng.randrange(5):
                    case 0:
                        return n.Mangle(mark, Value(self.one(MARKS)))
                    case 1:
                        return n.Mangle(mark, n.Binary(self.one(("|", "^")), mark, Value(self.one(MARKS[1:]))))
                    case 2:
                        return n.Mangle(mark, n.Binary("|", n.Binary("&", mark, Value(0xFFFF0000)), Value(self.one(MARKS[1:4]))))
                    case 3:
                        return n.Mangle(mark, n.Lookup(self.side(), SetName("tags")))
                    case _:
                        pairs = tuple(Element(Value(i), Value(self.one(MARKS))) for i in range(2))
                        return n.Mangle(mark, n.Lookup(n.Numgen("random", 2), SetLiteral(pairs)))
            case "seen":
                return n.SetChange(self.one(("add", "update", "update", "delete")), "seen", Element(self.side()))
            case "ctmark":
                return n.Mangle(n.CtKey("mark"), Value(self.one(MARKS)) if self.often(50) else mark)
            case "restore":
                return n.Mangle(mark, n.CtKey("mark"))
            case "notrack":
                return n.Notrack()
            case _:
                return n.Mangle(n.CtKey("zone", self.one(("", "", "original", "reply"))), Value(self.one((1, 2))))

    def vmap(self, chains: Sequence[str], protocol: int | None) -> n.Vmap:
        leaves = list(chains[-2:])
        kinds = ["zones", "l4", "numgen", "hash", "device"]
        if set(leaves) == {f"any{_SHARED - 2}", f"any{_SHARED - 1}"} and len(chains) > 2:
            kinds += ["where"] * 3 + ["zones"] * 2
        elif "zones" in kinds:
            kinds.remove("zones")
        if self.tracked:
            kinds += ["state"] * 2
        match self.one(kinds):
            case "where":
                key = n.Concat((n.Payload(self.ip, "daddr"), n.Meta("l4proto"), n.Payload("th", "dport")))
                return n.Vmap(key, SetName("where"))
            case "zones":
                return n.Vmap(self.side(), SetName("zones"))
            case "l4":
                pairs = tuple(Element(Value(name), self._verdict(leaves)) for name in ("tcp", "udp"))
                return n.Vmap(n.Meta("l4proto"), SetLiteral(pairs))
            case "numgen":
                modulus = self.one((1, 2, 3))
                pairs = tuple(Element(Value(number), self._verdict(leaves)) for number in range(modulus))
                return n.Vmap(n.Numgen("random", modulus), SetLiteral(pairs))
            case "hash":
                pairs = tuple(Element(Value(number), self._verdict(leaves)) for number in range(3))
                return n.Vmap(n.Hashed(self.side(), 4, 7), SetLiteral(pairs))
            case "device":
                pairs = tuple(Element(Value(name), self._verdict(leaves)) for name in ("eth0", "lo"))
                return n.Vmap(n.Meta(self.one(("iifname", "oifname"))), SetLiteral(pairs))
            case _:
                pairs = tuple(Element(Value(state), self._verdict(leaves)) for state in self.rng.sample(_STATES, 3))
                return n.Vmap(n.CtKey("state"), SetLiteral(pairs))

    def nat_statement(self, hook: Hook, protocol: int | None) -> n.Nat:
        ports = protocol in (TCP, UDP)
        family = self.ip if self.inet else ""
        flags = self.one(((),) * 8 + (("random",), ("fully-random",), ("persistent",)))
        port: n.Expression | None = None
        if ports and self.often(40):
            low = self.one(PORTS[:-1])
            port = n.RangeValue(Value(low), Value(low + self.one((1, 2)))) if self.often(25) else Value(low)
        if hook is Hook.POSTROUTING and self.often(45):
            return n.Nat("masquerade", None, port, "", flags)
        destination = hook in (Hook.PREROUTING, Hook.OUTPUT)
        if destination and self.often(25):
            return n.Nat("redirect", None, port, "", flags)
        kind = "dnat" if destination else "snat"
        groups = (RECEIVERS, RECEIVERS, SENDERS, OWN) if destination else (OWN, BEYOND, RECEIVERS, VIRTUAL)
        first = self.among(*groups)
        if self.often(20):
            hosts = [self.among(*groups) for _ in range(2)]
            pairs = tuple(Element(Value(number), Value(str(host))) for number, host in enumerate(hosts))
            return n.Nat(kind, n.Lookup(n.Numgen("random", 2), SetLiteral(pairs)), None, family, flags)
        if ports and destination and self.often(15):
            sockets = [n.Concat((Value(str(self.among(*groups))), Value(self.one(PORTS[:-1])))) for _ in range(2)]
            pairs = tuple(Element(Value(number), socket) for number, socket in enumerate(sockets))
            return n.Nat(kind, n.Lookup(n.Numgen("random", 2), SetLiteral(pairs)), None, self.ip, flags)
        if self.often(15):
            last = replace(first, value=first.value + self.one((1, 2)))
            return n.Nat(kind, n.RangeValue(Value(str(first)), Value(str(last))), port, family, flags)
        if self.family == 6 and self.often(10):  # IPv4: nft_nat.c nft_nat_setup_netmap leaves 12 bytes of the tuple to chance
            return n.Nat(kind, n.PrefixValue(*self.one(_NETS[self.family][:2])), None, family, (), prefix=True)
        return n.Nat(kind, Value(str(first)), port, family, flags)


# -- what the fuzzer asks of a case's rules ----------------------------------------------------------------------------


def is_nft(rules: str) -> bool:
    """Whether a case's rules are nft's text."""
    return rules.startswith("table ")


def placed(ruleset: Ruleset) -> Iterator[tuple[Place, NftRule]]:
    """The rules that count, by place."""
    for table in ruleset.nft_tables:
        for chain in table.chains.values():
            for number, rule in enumerate(chain.rules, 1):
                if any(isinstance(statement, n.Counter) for statement in rule.statements):
                    yield (table_name(table), chain.name, number), rule


def uncounted(ruleset: Ruleset) -> frozenset[Place]:
    """The places of rules without a counter."""
    return frozenset(
        (table_name(table), chain.name, number)
        for table in ruleset.nft_tables
        for chain in table.chains.values()
        for number, rule in enumerate(chain.rules, 1)
        if not any(isinstance(statement, n.Counter) for statement in rule.statements)
    )


def dynamic_sets(ruleset: Ruleset) -> str:
    """Text for `nft -f` that empties what rules have filled."""
    return "".join(
        f"flush set {table.family} {table.name} {made.name}\n"
        for table in ruleset.nft_tables
        for made in table.sets.values()
        if "dynamic" in made.flags
    )


def described(rule: NftRule) -> tuple[list[str], str]:
    """What a rule asks and what it does, in a word each."""
    asks, does = [], "none"
    for statement in rule.statements:
        match statement:
            case Compare(left=left):
                asks.append(_word(left))
            case n.Vmap(key=key):
                asks.append(f"{_word(key)} vmap")
            case n.Verdict(kind=kind):
                does = kind
            case n.Nat(kind=kind):
                does = kind
            case n.RejectStatement():
                does = "reject"
            case n.Mangle(key=key):
                does = f"{_word(key)} set"
            case n.SetChange(op=op):
                does = f"{op} @set"
            case n.Notrack():
                does = "notrack"
            case _:
                pass
    return asks, does


def _word(expression: n.Expression) -> str:
    match expression:
        case n.Meta(key=key):
            return f"meta {key}"
        case n.CtKey(key=key):
            return f"ct {key}"
        case n.Payload(field=field):
            return field
        case n.Binary(left=left):
            return f"{_word(left)} &"
        case _:
            return type(expression).__name__.lower()


def fewer_rules(text: str) -> Iterator[str]:
    """The ruleset with some rules left out: halves, then quarters ... down to one."""
    tables = read_text(text)
    places = [(t, c, r) for t, table in enumerate(tables) for c, chain in table.chains.items() for r in range(len(chain.rules))]
    size = len(places)
    while size >= 1:
        for start in range(0, len(places), size):
            gone = set(places[start : start + size])
            yield write_text(
                replace(
                    table,
                    chains={
                        name: replace(chain, rules=tuple(r for i, r in enumerate(chain.rules) if (t, name, i) not in gone))
                        for name, chain in table.chains.items()
                    },
                )
                for t, table in enumerate(tables)
            )
        size //= 2


def fewer_statements(text: str) -> Iterator[str]:
    """The ruleset with one statement left out, one element of a set left out, or a policy that accepts."""
    tables = read_text(text)
    for t, table in enumerate(tables):
        for name, chain in table.chains.items():
            if chain.policy == "drop":
                yield _with_chain(tables, t, replace(chain, policy="accept"))
            for number, rule in enumerate(chain.rules):
                for gone in range(len(rule.statements)):
                    rest = rule.statements[:gone] + rule.statements[gone + 1 :]
                    if rest:
                        rules = (*chain.rules[:number], replace(rule, statements=rest), *chain.rules[number + 1 :])
                        yield _with_chain(tables, t, replace(chain, rules=rules))
            if not chain.rules:
                yield _without_chain(tables, t, name)
        for made in table.sets.values():
            yield write_text(
                replace(each, sets={k: v for k, v in each.sets.items() if k != made.name}) if i == t else each
                for i, each in enumerate(tables)
            )
    if len(tables) > 1:
        for t in range(len(tables)):
            yield write_text(tables[:t] + tables[t + 1 :])


def _with_chain(tables: Sequence[NftTable], at: int, chain: NftChain) -> str:
    return write_text(
        replace(table, chains={**table.chains, chain.name: chain}) if t == at else table for t, table in enumerate(tables)
    )


def _without_chain(tables: Sequence[NftTable], at: int, name: str) -> str:
    return write_text(
        replace(table, chains={k: v for k, v in table.chains.items() if k != name}) if t == at else table
        for t, table in enumerate(tables)
    )
