"""Hypothesis strategies that make rules which a kernel accepts, and their canonical values.

    rules(family, table, hook)    any rule that may stand in a chain reached from `hook` of `table`; hook None: in a chain that
                                  is reached from nowhere, where the kernel does not ask about hooks
    nat_rules(family, hook)       the same for table nat, always with a NAT target

Law: values are those that the parser makes (full masks, no port range where there is none to ask for), so that
parse(str(rule)) == rule; both iptables-legacy and iptables-nft take every rule and print it as `str(rule)`. Left out, because
the tools lose or refuse them: masks of no bits negated, netmasks of conntrack that are no prefix, `-m ipvs` where the kernel has
no IPVS; sets must exist, so `set_matches` is separate.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from netlab.linux.addr import Ip, mask_of
from netlab.linux.matches import (
    ADDRESS_TYPES,
    CT_STATES,
    CT_STATUSES,
    AddressMask,
    Addrtype,
    Comment,
    Connmark,
    Conntrack,
    Destination,
    Fragment,
    Hashlimit,
    Icmp,
    InInterface,
    Iprange,
    Length,
    Limit,
    Mac,
    Mark,
    Match,
    Multiport,
    OutInterface,
    Owner,
    Physdev,
    Pkttype,
    PortRange,
    Protocol,
    Recent,
    Rpfilter,
    Sctp,
    SetMatch,
    Source,
    State,
    Statistic,
    Tcp,
    Ttl,
    Udp,
)
from netlab.linux.rules import Hook, Rule
from netlab.linux.targets import (
    Accept,
    Checksum,
    Ct,
    Dnat,
    Drop,
    Jump,
    Log,
    Masquerade,
    NatRange,
    Netmap,
    Redirect,
    Reject,
    Return,
    SetConnmark,
    SetMark,
    Snat,
    Target,
    Tcpmss,
    Tproxy,
    TraceTarget,
)

TCP, UDP, SCTP, DCCP, UDPLITE = 6, 17, 132, 33, 136
booleans = st.booleans()
U32 = st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 0x4000, 0xFFFFFFFF])


def bits(family: int) -> int:
    return 32 if family == 4 else 128


def addresses(family: int) -> st.SearchStrategy[Ip]:
    """Any address, often one of a few, so that rules and packets meet."""
    few = [0x0A000001, 0x0AF40002, 0x7F000001, 0xE0000001] if family == 4 else [1, 0xFD00 << 112 | 1, 0xFE80 << 112 | 5]
    values = st.sampled_from(few) | st.integers(1, 2 ** bits(family) - 1)
    return values.map(lambda value: Ip(family, value))


@st.composite
def masks(draw: st.DrawFn, family: int) -> int:
    """A netmask with at least one bit: mostly a prefix, now and then with holes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.integers(1, 2 ** bits(family) - 1))
    return mask_of(family, draw(st.integers(1, bits(family))))


ports = st.sampled_from([53, 80, 443]) | st.integers(0, 65535)


@st.composite
def port_ranges(draw: st.DrawFn) -> PortRange:
    # ranges from 0 or to 65535 have two spellings once they are negated: iptables-nft prints ! 0:53 as 54:65535
    low, high = sorted((draw(ports), draw(ports)))
    return PortRange(low, high) if low > 0 and high < 65535 and draw(booleans) else PortRange(low, low)


def negatable(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, bool]]:
    """A value and whether it is negated; (None, False) where the option is not given."""
    return st.just((None, False)) | st.tuples(strategy, booleans)


@st.composite
def some_of(draw: st.DrawFn, strategies: dict[str, st.SearchStrategy[Any]], fewest: int = 1) -> dict[str, Any]:
    """At least `fewest` of the named options: {"sport": ..., "not_sport": ...} without those that are not given."""
    chosen = draw(st.lists(st.sampled_from(sorted(strategies)), min_size=fewest, unique=True))
    found: dict[str, Any] = {}
    for name in chosen:
        found[name] = draw(strategies[name])
        found[f"not_{name}"] = draw(booleans)
    return found


interface_names = st.sampled_from(["eth0", "cni0", "lo", "veth+", "cali+", "wlan0.100", "a" * 15])

# Printable text as comments have it; quotes and backslashes included, since the tools escape them.
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("äß→"), max_size=40)
comments = st.builds(
    Comment, texts | st.sampled_from(["default/web:http cluster IP", "cali:6gwbT8clXdHdC1b1", 'say "no"', "it's"])
)


@st.composite
def ip_parts(draw: st.DrawFn, family: int, hook: Hook | None, protocol: int | None) -> list[Match]:
    """-s -d -i -o -p -f, in the kernel's order; devices only where the hook has them."""
    found: list[Match] = []
    for kind in (Source, Destination):
        if draw(st.integers(0, 2)) == 0:
            mask = draw(masks(family))
            found.append(kind(family, draw(addresses(family)).value & mask, mask, draw(booleans)))
    if hook not in (Hook.OUTPUT, Hook.POSTROUTING) and draw(st.integers(0, 3)) == 0:
        found.append(InInterface(draw(interface_names), draw(booleans)))
    if hook not in (Hook.PREROUTING, Hook.INPUT) and draw(st.integers(0, 3)) == 0:
        found.append(OutInterface(draw(interface_names), draw(booleans)))
    if protocol is not None:
        found.append(Protocol(protocol))
    elif draw(st.integers(0, 9)) == 0:
        found.append(Protocol(draw(st.integers(1, 255)), draw(booleans)))
    if family == 4 and draw(st.integers(0, 9)) == 0:
        found.append(Fragment(draw(booleans)))
    return found


tcp_flags = st.tuples(st.integers(1, 63), st.integers(0, 63))
tcp = st.builds(
    lambda given: Tcp(**given),
    some_of({"sport": port_ranges(), "dport": port_ranges(), "flags": tcp_flags, "option": st.integers(1, 255)}, fewest=0),
)
udp = st.builds(lambda given: Udp(**given), some_of({"sport": port_ranges(), "dport": port_ranges()}, fewest=0))
chunks = st.sampled_from(
    [
        "all DATA,INIT",
        "any DATA:uBE,SHUTDOWN_COMPLETE:T",
        "only ALL",
        "any NONE",
        "all ABORT",
        "any I_DATA,ASCONF_ACK,FORWARD_TSN",
    ]
)
sctp = st.builds(
    lambda given: Sctp(**given), some_of({"sport": port_ranges(), "dport": port_ranges(), "chunks": chunks}, fewest=0)
)


@st.composite
def icmp(draw: st.DrawFn, family: int) -> Icmp:
    kind = draw(st.sampled_from([0, 3, 8, 11]) | st.integers(0, 254) if family == 4 else st.integers(0, 255))
    code = draw(st.none() | st.integers(0, 255))
    if family == 4 and draw(st.integers(0, 9)) == 0:
        return Icmp(4, 255, (0, 255), draw(booleans))  # any
    return Icmp(family, kind, (0, 255) if code is None else (code, code), draw(booleans))


@st.composite
def multiport(draw: st.DrawFn) -> Multiport:
    found: list[PortRange] = []
    for low, high in draw(st.lists(st.tuples(ports, ports), min_size=1, max_size=7)):
        found.append(PortRange(min(low, high), max(low, high)))
    return Multiport(draw(st.sampled_from(["sports", "dports", "ports"])), tuple(found), draw(booleans))


def protocol_matches(family: int, protocol: int | None) -> list[st.SearchStrategy[Match]]:
    """The matches that a rule may have because of its protocol."""
    own: dict[int, st.SearchStrategy[Match]] = {TCP: tcp, UDP: udp, SCTP: sctp, 1 if family == 4 else 58: icmp(family)}
    found = [own[protocol]] if protocol in own else []
    return [*found, multiport()] if protocol in (TCP, UDP, SCTP, DCCP, UDPLITE) else found


@st.composite
def conntrack(draw: st.DrawFn, family: int) -> Conntrack:
    networks = st.builds(
        lambda address, length: AddressMask(family, address.value, mask_of(family, length)),
        addresses(family),
        st.integers(0, bits(family)),
    )
    statuses = st.frozensets(st.sampled_from(CT_STATUSES[1:]), min_size=1) | st.just(frozenset({"NONE"}))
    expire = st.tuples(st.integers(0, 1000), st.integers(1000, 2**32 - 1)) | st.integers(0, 99).map(lambda s: (s, s))
    options: dict[str, st.SearchStrategy[Any]] = {
        "states": st.frozensets(st.sampled_from(CT_STATES), min_size=1),
        "protocol": st.integers(0, 255),
        "status": statuses,
        "expire": expire,
    }
    options |= dict.fromkeys(("orig_src", "orig_dst", "repl_src", "repl_dst"), networks)
    options |= dict.fromkeys(("orig_src_port", "orig_dst_port", "repl_src_port", "repl_dst_port"), port_ranges())
    return Conntrack(**draw(some_of(options)), direction=draw(st.sampled_from([None, "ORIGINAL", "REPLY"])))


@st.composite
def addrtype(draw: st.DrawFn, family: int, hook: Hook | None) -> Addrtype:
    # rules of ip6tables cannot ask for every type, and a hook with one device cannot limit to the other (xt_addrtype.c)
    known = ADDRESS_TYPES if family == 4 else ("UNSPEC", "UNICAST", "LOCAL", "ANYCAST", "MULTICAST", "UNREACHABLE")
    given = draw(
        some_of(
            {"src": st.frozensets(st.sampled_from(known), min_size=1), "dst": st.frozensets(st.sampled_from(known), min_size=1)}
        )
    )
    limits = {Hook.PREROUTING: ["in"], Hook.INPUT: ["in"], Hook.OUTPUT: ["out"], Hook.POSTROUTING: ["out"]}
    limit = draw(st.sampled_from(["", *limits.get(hook, ["in", "out"])])) if hook is not None else ""
    return Addrtype(given.get("src"), given.get("not_src", False), given.get("dst"), given.get("not_dst", False), limit)


statistic = st.builds(Statistic, threshold=st.integers(0, 2**31), negate=booleans) | st.integers(1, 1000).flatmap(
    lambda every: st.builds(Statistic, every=st.just(every), packet=st.integers(0, every - 1), negate=booleans)
)


@st.composite
def recent(draw: st.DrawFn, family: int) -> Recent:
    action = draw(st.sampled_from(["set", "rcheck", "update", "remove"]))
    asks = action in ("rcheck", "update")
    seconds = draw(st.none() | st.integers(1, 100000)) if asks else None
    return Recent(
        action,
        draw(booleans),
        seconds,
        draw(booleans) if seconds is not None else False,
        draw(st.none() | st.integers(1, 20)) if asks else None,
        draw(booleans) if asks else False,
        draw(st.sampled_from(["DEFAULT", "KUBE-SEP-3HAZKWNY4YNS7ONS", "ssh"])) + f"-{family}",
        str(Ip(family, mask_of(family, draw(st.integers(8, bits(family)))))),
        draw(st.sampled_from(["source", "dest"])),
    )


@st.composite
def physdev(draw: st.DrawFn, hook: Hook | None) -> Physdev:
    # --physdev-out and its kin need a bridged packet that leaves: refused or warned about elsewhere (xt_physdev.c)
    options = ["physin", "is_in", "is_bridged"]
    if hook in (None, Hook.FORWARD, Hook.POSTROUTING):
        options += ["physout", "is_out"]
    given: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(options), min_size=1, unique=True)):
        given[name] = draw(interface_names) if name.startswith("phys") else True
        given[f"not_{name}"] = draw(booleans)
    if "physout" in given and hook is not Hook.POSTROUTING:
        given |= {"is_bridged": True, "not_is_bridged": False}
    return Physdev(**given)


@st.composite
def iprange(draw: st.DrawFn, family: int) -> Iprange:
    ranges = st.tuples(addresses(family), addresses(family)).map(lambda pair: (min(pair), max(pair)))
    return Iprange(**draw(some_of({"src": ranges, "dst": ranges})))


@st.composite
def owner(draw: st.DrawFn) -> Owner:
    ids = st.tuples(st.integers(0, 1000), st.integers(1001, 70000)) | st.integers(0, 70000).map(lambda one: (one, one))
    given = draw(some_of({"uid": ids, "gid": ids}, fewest=0))
    exists = draw(booleans) or not given
    return Owner(
        **given,
        socket_exists=exists,
        not_socket_exists=exists and draw(booleans),
        suppl_groups="gid" in given and draw(booleans),
    )


macs = st.integers(0, 2**48 - 1).map(lambda value: ":".join(f"{value:012x}"[n : n + 2] for n in range(0, 12, 2)))
length = st.tuples(st.integers(0, 1500), st.integers(0, 65535)).map(lambda pair: (min(pair), max(pair)))
# period times burst must fit 32 bits (xt_limit.c: limit_mt_check)
limits = st.builds(Limit, st.sampled_from(["5/min", "3/hour", "10/sec", "90/min", "1441/day", "10000/sec"]), st.integers(1, 100))
hashlimits = st.builds(
    lambda how, mode, n: Hashlimit(f"--hashlimit-{how} {n}/sec --hashlimit-burst 5{mode} --hashlimit-name h{n}"),
    st.sampled_from(["upto", "above"]),
    st.sampled_from(["", " --hashlimit-mode srcip", " --hashlimit-mode srcip,srcport,dstip,dstport"]),
    st.integers(1, 9),
)


def ttl(family: int) -> st.SearchStrategy[Ttl]:
    return st.builds(Ttl, st.just(family), st.just("eq"), st.integers(0, 255), booleans) | st.builds(
        Ttl, st.just(family), st.sampled_from(["lt", "gt"]), st.integers(0, 255)
    )


def set_matches(name: str, dimensions: int) -> st.SearchStrategy[SetMatch]:
    """Matches on a set that exists."""
    dims = st.tuples(*[st.sampled_from(["src", "dst"])] * dimensions)
    return st.builds(SetMatch, st.just(name), dims, booleans)


def plain_matches(family: int, table: str, hook: Hook | None) -> st.SearchStrategy[Match]:
    """Every match that needs no protocol and may stand at this hook."""
    found: list[st.SearchStrategy[Match]] = [
        comments,
        st.builds(Mark, U32, U32, booleans),
        st.builds(Connmark, U32, U32, booleans),
        conntrack(family),
        st.builds(State, st.frozensets(st.sampled_from(CT_STATES[:5]), min_size=1), booleans),
        addrtype(family, hook),
        statistic,
        recent(family),
        physdev(hook),
        iprange(family),
        st.builds(lambda pair, negate: Length(*pair, negate), length, booleans),
        ttl(family),
        limits,
        hashlimits,
        st.builds(Pkttype, st.sampled_from(["unicast", "broadcast", "multicast", "otherhost"]), booleans),
    ]
    if hook not in (Hook.OUTPUT, Hook.POSTROUTING):
        found.append(st.builds(Mac, macs, booleans))
    if hook in (None, Hook.OUTPUT, Hook.POSTROUTING):
        found.append(owner())
    if table in ("raw", "mangle") and hook in (None, Hook.PREROUTING):
        found.append(st.builds(Rpfilter, booleans, booleans, booleans, booleans))
    return st.one_of(found)


REJECTS = {
    4: ["net-unreachable", "host-unreachable", "proto-unreachable", "port-unreachable", "net-prohibited", "host-prohibited",
        "admin-prohibited"],
    6: ["no-route", "adm-prohibited", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route"],
}  # fmt: skip


def targets(
    family: int, table: str, hook: Hook | None, protocol: int | None, chains: list[str]
) -> st.SearchStrategy[Target | None]:
    """Every target that is no NAT and may stand at this hook; jumps lead to `chains`."""
    found: list[st.SearchStrategy[Target | None]] = [
        st.none(),
        st.sampled_from([Accept(), Return()]),
        st.builds(SetMark, U32, U32),
        st.builds(SetConnmark, st.just("set"), U32, U32),
        st.builds(SetConnmark, st.sampled_from(["save", "restore"]), ctmask=U32, nfmask=U32),
        st.sampled_from(
            [
                Log("LOG"),
                Log("LOG", '--log-prefix "fw: " --log-level 7 --log-tcp-options --log-ip-options --log-uid'),
                Log("NFLOG", '--nflog-prefix "a b: " --nflog-group 5 --nflog-threshold 3'),
            ]
        ),
    ]
    if table != "nat":
        found.append(st.just(Drop()))
    if chains:
        found.append(st.builds(Jump, st.sampled_from(chains), booleans))
    if table == "filter":
        prefix = "icmp-" if family == 4 else "icmp6-"
        found.append(st.sampled_from([Reject(prefix + kind) for kind in REJECTS[family]]))
        if protocol == TCP:
            found.append(st.just(Reject("tcp-reset")))
    if table == "raw":
        found.append(st.sampled_from([Ct(notrack=True, bare=True), Ct(notrack=True), Ct(), TraceTarget()]))
        found.append(
            st.builds(
                lambda zone, side: Ct(zone=zone, zone_direction=side),
                st.integers(1, 65535),
                st.sampled_from(["", "orig", "reply"]),
            )
        )
    if table == "mangle":
        found.append(st.just(Checksum()))
        if protocol == TCP:
            found.append(st.builds(Tcpmss, st.integers(500, 1460)))
        if protocol in (TCP, UDP) and hook in (None, Hook.PREROUTING):
            where = st.none() | addresses(family)
            found.append(st.builds(Tproxy, st.integers(1, 65535), where, U32, U32, st.just(family)))
    return st.one_of(found)


@st.composite
def nat_ranges(draw: st.DrawFn, family: int, with_ports: bool, flags: tuple[str, ...]) -> NatRange:
    found: dict[str, Any] = {flag: True for flag in flags if draw(st.integers(0, 3)) == 0}
    if not with_ports or draw(st.integers(0, 3)) > 0:
        low, high = sorted((draw(addresses(family)), draw(addresses(family))))
        found |= {"low": low} if draw(booleans) or low == high else {"low": low, "high": high}
    if with_ports and ("low" not in found or draw(booleans)):
        first, last = sorted((draw(st.integers(1, 65535)), draw(st.integers(1, 65535))))
        found |= {"port_low": first} if draw(booleans) or first == last else {"port_low": first, "port_high": last}
    return NatRange(**found)


def nat_targets(family: int, hook: Hook, protocol: int | None) -> st.SearchStrategy[Target]:
    """NAT targets of one hook of table nat."""
    with_ports = protocol in (TCP, UDP, SCTP)
    networks = st.builds(
        lambda address, n: Netmap(family, address.value & mask_of(family, n), mask_of(family, n)),
        addresses(family),
        st.integers(8, bits(family)),
    )
    own_ports = st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted).map(
        lambda pair: {"port_low": pair[0]} | ({"port_high": pair[1]} if pair[0] != pair[1] else {})
    )  # fmt: skip
    no_ports: st.SearchStrategy[dict[str, int]] = st.just({})
    ports_given = own_ports | no_ports if with_ports else no_ports
    if hook in (Hook.PREROUTING, Hook.OUTPUT):
        found = [
            st.builds(Dnat, nat_ranges(family, with_ports, ("random", "persistent"))),
            st.builds(lambda given, random: Redirect(NatRange(**given, random=random)), ports_given, booleans),
            networks,
        ]
    else:
        found = [st.builds(Snat, nat_ranges(family, with_ports, ("random", "random_fully", "persistent"))), networks]
        if hook is Hook.POSTROUTING:
            found.append(
                st.builds(
                    lambda given, random, fully: Masquerade(NatRange(**given, random=random, random_fully=fully)),
                    ports_given,
                    booleans,
                    booleans,
                )
            )
    return st.one_of(found)


@st.composite
def _rule(draw: st.DrawFn, family: int, table: str, hook: Hook | None, chains: list[str], nat: bool) -> Rule:
    protocol = draw(st.sampled_from([None, TCP, UDP, SCTP, 1 if family == 4 else 58, DCCP, UDPLITE]))
    matches = draw(ip_parts(family, hook, protocol))
    fragment = [m for m in matches if isinstance(m, Fragment)]
    if fragment and protocol is not None:  # later fragments have no ports: the matches that read them are refused or never hold
        matches = [m for m in matches if not isinstance(m, Fragment)]
    for strategy in protocol_matches(family, protocol):
        if draw(booleans):
            matches.append(draw(strategy))
    others: list[Match] = []
    for match in draw(st.lists(plain_matches(family, table, hook), max_size=3)):
        # mark and connmark share the option --mark: the tools cannot read `-m mark -m connmark -m mark`, though they print it
        if not isinstance(match, (Mark, Connmark)) or type(match) not in map(type, others):
            others.append(match)
    at = draw(st.integers(0, len(others)))
    header = [m for m in matches if isinstance(m, (Source, Destination, InInterface, OutInterface, Protocol, Fragment))]
    rest = [m for m in matches if m not in header]
    matches = [*header, *others[:at], *rest, *others[at:]]
    if nat:
        assert hook is not None
        return Rule(tuple(matches), draw(nat_targets(family, hook, protocol)))
    target = draw(targets(family, table, hook, protocol, chains))
    if isinstance(target, Tcpmss):
        # xt_TCPMSS.c takes only rules that ask for SYN; iptables-nft-save prints two `-m tcp` of a rule as one
        matches = [m for m in matches if not isinstance(m, Tcp)] + [Tcp(flags=(6, 2))]
    return Rule(tuple(matches), target)


def rules(
    family: int, table: str = "filter", hook: Hook | None = Hook.FORWARD, chains: list[str] | None = None
) -> st.SearchStrategy[Rule]:
    """Rules that a kernel takes at `hook` of `table`, without NAT; jumps lead to `chains` (default: no jumps)."""
    return _rule(family, table, hook, chains or [], False)


def nat_rules(family: int, hook: Hook) -> st.SearchStrategy[Rule]:
    """Rules with a NAT target that a kernel takes at `hook` of table nat."""
    return _rule(family, "nat", hook, [], True)
