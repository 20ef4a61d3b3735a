"""Felix's iptables rules on one node: the static chains, the dispatch to workloads, a pair of chains for each workload.

    FORWARD -> cali-FORWARD -> cali-from-wl-dispatch -> cali-fw-caliXXX (egress: may this pod send it?)
                            -> cali-to-wl-dispatch   -> cali-tw-caliXXX (ingress: may this pod have it?)

Law: chains, their order, comments and marks are those of Felix v3.30 with its default configuration (chain insert mode Insert,
DefaultEndpointToHostAction Accept as Calico's manifests set it); a rule's comment `cali:...` is the hash that Felix computes over
the chain so far, so that dumps can be compared word for word. What policies add to a workload's chains is a value (`Policies`);
without any, a pod's profile (its namespace) allows everything. Sources: felix/rules, felix/generictables.
Not modelled: floating IPs, WireGuard, the BPF and nftables data planes.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha224, sha256

import msgspec

from netlab.dataplane.cni.wiring import destination, empty_table, source, with_chains
from netlab.kube.cluster import FelixOptions
from netlab.linux.addr import Prefix
from netlab.linux.matches import (
    Addrtype,
    Comment,
    Conntrack,
    Destination,
    Icmp,
    InInterface,
    Mark,
    Match,
    Multiport,
    OutInterface,
    PortRange,
    Protocol,
    Rpfilter,
    SetMatch,
    Source,
    Udp,
)
from netlab.linux.rules import Chain, Rule, Ruleset
from netlab.linux.sets import IpSet
from netlab.linux.targets import Accept, Ct, Drop, Jump, Log, Masquerade, NatRange, Return, SetMark, Target
from netlab.refs import Ref

# The bits of the packet mark that Felix takes for itself from 0xffff0000, in this order (felix/rules/rule_defs.go)
MARK_ACCEPT, MARK_PASS, MARK_DROP, MARK_SCRATCH0, MARK_SCRATCH1 = 0x10000, 0x20000, 0x40000, 0x80000, 0x100000
# the rest says by which endpoint a packet came in that IPVS forwards; the lowest bit: by none of Calico's
MARK_ENDPOINT, MARK_NO_ENDPOINT = 0xFFE00000, 0x200000
ALL_MARKS = MARK_ACCEPT | MARK_PASS | MARK_SCRATCH0 | MARK_SCRATCH1

MAX_CHAIN_NAME = 28  # iptables' limit (xt_extension maxnamelen - 1)
VXLAN_PORT = 4789
_WORKLOADS = "cali+"
_IPIP, _UDP, _ICMPV6 = 4, 17, 58
_NEIGHBOUR_TYPES = (130, 131, 132, 133, 135, 136)  # multicast listeners, router solicitation, neighbour discovery
_UNSAFE = re.compile(r"[^\w @%+=:,./-]", re.ASCII)


# -- rules in Felix's own words ----------------------------------------------------------------------------------------


class Part(msgspec.Struct, frozen=True):
    """One match or the action of a rule: the words in which Felix gives it to iptables-restore, and what they mean."""

    words: str
    match: Match | None = None
    target: Target | None = None


class FelixRule(msgspec.Struct, frozen=True):
    """A rule before it has its hash: matches in Felix's order, the action, comments beside the hash, what caused it."""

    matches: tuple[Part, ...] = ()
    action: Part | None = None
    comments: tuple[str, ...] = ()
    ref: Ref | None = None

    def words(self) -> str:
        """The rule without `-A CHAIN`, as Felix hashes it (felix/iptables/renderer.go)."""
        comments = [f'-m comment --comment "{safe_comment(text)}"' for text in self.comments]
        parts = [*comments, *(part.words for part in self.matches)]
        return " ".join([*parts, self.action.words] if self.action is not None else parts)


def safe_comment(text: str) -> str:
    """A comment as Felix writes it: other than plain characters become underscores (escapeComment)."""
    return _UNSAFE.sub("_", text)[:256]


def mark_is(value: int, mask: int | None = None) -> Part:
    """`-m mark --mark VALUE/MASK`; one value: all its bits are set."""
    mask = value if mask is None else mask
    words = f"-m mark --mark {value:#x}/{mask:#x}" if value else f"-m mark --mark 0/{mask:#x}"
    return Part(words, Mark(value, mask))


def mark_clear(mask: int) -> Part:
    """None of the bits is set."""
    return mark_is(0, mask)


def mark_not_clear(mask: int) -> Part:
    """Some of the bits are set."""
    return Part(f"-m mark ! --mark 0/{mask:#x}", Mark(0, mask, True))


def mark_is_not(value: int, mask: int) -> Part:
    """The bits of the mask are others than these."""
    return Part(f"-m mark ! --mark {value:#x}/{mask:#x}", Mark(value, mask, True))


def in_interface(name: str) -> Part:
    return Part(f"--in-interface {name}", InInterface(name))


def out_interface(name: str) -> Part:
    return Part(f"--out-interface {name}", OutInterface(name))


def protocol(number: int, name: str = "", negate: bool = False) -> Part:
    return Part(f"{'! ' if negate else ''}-p {name or number}", Protocol(number, negate))


def net(side: str, p: Prefix, negate: bool = False) -> Part:
    """`--source NET` (side src) or `--destination NET` (dst)."""
    option, match = ("source", source(p, negate)) if side == "src" else ("destination", destination(p, negate))
    return Part(f"{'! ' if negate else ''}--{option} {p}", match)


def ports(side: str, ranges: Sequence[PortRange], negate: bool = False) -> Part:
    """`-m multiport`: of up to 15 ports, where a range counts as two."""
    option, which = ("source-ports", "sports") if side == "src" else ("destination-ports", "dports")
    words = f"-m multiport {'! ' if negate else ''}--{option} {','.join(map(str, ranges))}"
    return Part(words, Multiport(which, tuple(ranges), negate))


def dports(*numbers: int) -> Part:
    return ports("dst", [PortRange(number, number) for number in numbers])


def in_set(name: str, side: str, negate: bool = False) -> Part:
    """`side` is src or dst, or two of them where the set is of addresses and ports."""
    return Part(f"-m set {'! ' if negate else ''}--match-set {name} {side}", SetMatch(name, tuple(side.split(",")), negate))


def ctstate(states: str, negate: bool = False) -> Part:
    return Part(
        f"-m conntrack {'! ' if negate else ''}--ctstate {states}",
        Conntrack(states=frozenset(states.split(",")), not_states=negate),
    )


_DST_LOCAL = Part("-m addrtype --dst-type LOCAL", Addrtype(dst_types=frozenset({"LOCAL"})))
_SRC_LOCAL = Part("-m addrtype --src-type LOCAL", Addrtype(src_types=frozenset({"LOCAL"})))
_SRC_NOT_LOCAL_OUT = Part(
    "-m addrtype ! --src-type LOCAL --limit-iface-out", Addrtype(src_types=frozenset({"LOCAL"}), not_src=True, limit="out")
)
ACCEPT = Part("--jump ACCEPT", target=Accept())
DROP = Part("--jump DROP", target=Drop())
RETURN = Part("--jump RETURN", target=Return())
NOTRACK = Part("--jump NOTRACK", target=Ct(notrack=True, bare=True))
_MASQUERADE = Part("--jump MASQUERADE --random-fully", target=Masquerade(NatRange(random_fully=True)))


def jump(chain: str) -> Part:
    return Part(f"--jump {chain}", target=Jump(chain))


def goto(chain: str) -> Part:
    return Part(f"--goto {chain}", target=Jump(chain, goto=True))


def set_mark(bits: int) -> Part:
    return Part(f"--jump MARK --set-mark {bits:#x}/{bits:#x}", target=SetMark(bits, bits))


def clear_mark(bits: int) -> Part:
    return Part(f"--jump MARK --set-mark 0/{bits:#x}", target=SetMark(0, bits))


def set_masked_mark(value: int, mask: int) -> Part:
    """Of the bits of the mask, these and no others."""
    return Part(f"--jump MARK --set-mark {value:#x}/{mask:#x}", target=SetMark(value, mask))


def log(prefix: str) -> Part:
    words = f'--log-prefix "{prefix}: " --log-level 5'
    return Part(f"--jump LOG {words}", target=Log("LOG", words))


def rule(*matches: Part, action: Part | None = None, comments: Sequence[str] = (), ref: Ref | None = None) -> FelixRule:
    """A rule from its parts."""
    return FelixRule(matches, action, tuple(comments), ref)


def hashed(chain: str, rules: Iterable[FelixRule]) -> tuple[Rule, ...]:
    """The rules of a chain with the hashes that Felix puts into their comments (generictables/rules.go ruleHashes).

    Each hash covers the chain's name and all rules up to its own. Rules appended to a chain of the kernel's are hashed under
    "CHAIN*appends*", in iptables-restore's words as well.

    >>> str(hashed("FORWARD", [rule(action=jump("cali-FORWARD"))])[0])
    '-m comment --comment "cali:wUHhoiAYhphO9Mso" -j cali-FORWARD'
    """
    digest = sha224(chain.encode()).digest()
    made = []
    for each in rules:
        words = each.words()
        digest = sha224(digest + (f"-A {chain} HASH {words}" if words else f"-A {chain} HASH").encode()).digest()
        made.append(_as_iptables(each, "cali:" + urlsafe_b64encode(digest).decode()[:16]))
    return tuple(made)


_FIRST = (Source, Destination, InInterface, OutInterface, Protocol)  # iptables-save prints these before any match


def _as_iptables(each: FelixRule, comment: str) -> Rule:
    matches = [part.match for part in each.matches if part.match is not None]
    first = sorted((m for m in matches if isinstance(m, _FIRST)), key=lambda m: _FIRST.index(type(m)))
    comments = [Comment(comment), *(Comment(safe_comment(text)) for text in each.comments)]
    rest = [m for m in matches if not isinstance(m, _FIRST)]
    target = each.action.target if each.action is not None else None
    return Rule((*first, *comments, *rest), target, ref=each.ref)


def limited_name(prefix: str, suffix: str) -> str:
    """A chain's name: prefix and suffix, or the prefix and as much of the suffix's hash as fits (GetLengthLimitedID).

    >>> limited_name("cali-pri-", "kns.default"), limited_name("cali-pri-", "ksa.kube-system.coredns")
    ('cali-pri-kns.default', 'cali-pri-_u2Tn2rSoAPffvE7JO6')
    """
    if len(prefix) + len(suffix) <= MAX_CHAIN_NAME:
        return prefix + suffix
    digest = urlsafe_b64encode(sha256(suffix.encode()).digest()).decode()
    return f"{prefix}_{digest[: MAX_CHAIN_NAME - 1 - len(prefix)]}"


# -- what the rules are about ------------------------------------------------------------------------------------------


class Policies(msgspec.Struct, frozen=True):
    """What policies add for one workload and one family: rules of cali-tw- (`ingress`) and cali-fw- (`egress`), tier by tier,
    that stand before the profiles; the chains that these jump to (cali-pi-, cali-po-, cali-gi-, cali-go-); and their ipsets."""

    ingress: tuple[FelixRule, ...] = ()
    egress: tuple[FelixRule, ...] = ()
    chains: Mapping[str, tuple[FelixRule, ...]] = {}
    sets: Mapping[str, IpSet] = {}


class Endpoint(msgspec.Struct, frozen=True):
    """A workload on the node: its device, the profiles that apply in order (name, whether it allows everything), and what its
    policies add."""

    device: str
    profiles: tuple[tuple[str, bool], ...] = ()
    policies: Policies = Policies()


ANY_INTERFACE = "any-interface-at-all"  # the host endpoint of interfaceName "*", in the names of chains


class HostInterface(msgspec.Struct, frozen=True):
    """A device of the host under a host endpoint: its profiles, and what policies say about the host's own packets (`normal`),
    about those that it forwards, those before DNAT (the mangle table) and those not tracked (raw); None where there are none.

    A chain is about packets that come in (`ingress`) or go out (`egress`) by the device.
    """

    device: str
    profiles: tuple[str, ...] = ()
    normal: Policies = Policies()
    forward: Policies | None = None
    pre_dnat: Policies | None = None
    untracked: Policies | None = None


class Felix(msgspec.Struct, frozen=True):
    """What Felix knows on one node for one address family.

    `ipip` and `vxlan` say that some pool is encapsulated so (then the tunnel's packets are let in and out); `nat_outgoing` that
    some pool wants it; `tunnels` are the devices that have an address of their own. `profiles` are chains of profiles that host
    endpoints name, as rules by the chain's name. `ipvs`: kube-proxy runs in ipvs mode. `options`: FelixConfiguration. `shared`
    makes the rules of chains that are the same on every node, those of policies and their groups.
    """

    family: int
    endpoints: tuple[Endpoint, ...] = ()
    ipip: bool = False
    vxlan: bool = False
    nat_outgoing: bool = False
    tunnels: tuple[str, ...] = ()
    hosts: tuple[HostInterface, ...] = ()
    ipvs: bool = False
    options: FelixOptions = FelixOptions()
    shared: Callable[[str, Sequence[FelixRule]], tuple[Rule, ...]] = hashed
    profiles: Mapping[str, tuple[FelixRule, ...]] = {}

    def set_name(self, name: str) -> str:
        """`cali40` or `cali60` and the name."""
        return f"cali{self.family}0{name}"


def add_rules(ruleset: Ruleset, felix: Felix) -> Ruleset:
    """A node's rules with Felix's: its jumps stand first in the built-in chains, whoever was there before (insert mode)."""
    tables = {table.name: table for table in ruleset.tables}
    for name, chains, inserted, appended in _tables(felix):
        table = tables.get(name) or empty_table(name, felix.family)
        changed = dict(table.chains)
        for base, rules in inserted.items():
            changed[base] = msgspec.structs.replace(changed[base], rules=(*hashed(base, rules), *changed[base].rules))
        for base, rules in appended.items():
            changed[base] = msgspec.structs.replace(
                changed[base], rules=(*changed[base].rules, *hashed(f"{base}*appends*", rules))
            )
        for chain in _reachable(chains, [*inserted.values(), *appended.values()]):
            make = felix.shared if chain.startswith(_SHARED) else hashed
            changed[chain] = Chain(chain, make(chain, chains[chain]))
        tables[name] = with_chains(table, changed)
    return msgspec.structs.replace(ruleset, tables=tuple(tables.values()))


_Chains = dict[str, list[FelixRule]]
_SHARED = ("cali-pi-", "cali-po-", "cali-gi-", "cali-go-")


def _reachable(chains: Mapping[str, Sequence[FelixRule]], entries: Iterable[Sequence[FelixRule]]) -> Iterable[str]:
    """Felix keeps no chain that nothing refers to (Table.increfChain)."""
    found: dict[str, None] = {}
    todo = [rule_ for rules in entries for rule_ in rules]
    while todo:
        target = (todo.pop().action or RETURN).target
        if isinstance(target, Jump) and target.chain not in found and target.chain in chains:
            found[target.chain] = None
            todo += chains[target.chain]
    return found


def _tables(felix: Felix) -> list[tuple[str, _Chains, _Chains, _Chains]]:
    """(table, chains, rules inserted into built-in chains, rules appended to them)."""
    to_top = {
        table: {base: [rule(action=jump(f"cali-{base}"))] for base in bases}
        for table, bases in {
            "raw": ("PREROUTING", "OUTPUT"),
            "mangle": ("PREROUTING", "POSTROUTING"),
            "nat": ("PREROUTING", "OUTPUT", "POSTROUTING"),
            "filter": ("INPUT", "FORWARD", "OUTPUT"),
        }.items()
    }
    after = {
        "FORWARD": [
            rule(mark_is(MARK_ACCEPT), action=ACCEPT, comments=["Policy explicitly accepted packet."]),
            rule(action=set_mark(MARK_ACCEPT)),
        ]
    }
    return [
        ("filter", _filter(felix), to_top["filter"], after),
        ("nat", _nat(felix), to_top["nat"], {}),
        ("mangle", _mangle(felix), to_top["mangle"], {}),
        ("raw", _raw(felix), to_top["raw"], {}),
    ]


# -- the tables --------------------------------------------------------------------------------------------------------

_HOST_ENDPOINT = ["Host endpoint policy accepted packet."]


def _raw(felix: Felix) -> _Chains:
    """Strict reverse-path check of what pods send; tunnel packets are not tracked (static.go StaticRawTableChains)."""
    vxlan = rule(
        Part("-p udp", Protocol(_UDP)),
        Part(f"--dport {VXLAN_PORT}", Udp(dport=PortRange(VXLAN_PORT, VXLAN_PORT))),
        action=NOTRACK,
    )
    from_pod = mark_is(MARK_SCRATCH0)
    return {
        "cali-PREROUTING": [
            rule(action=clear_mark(ALL_MARKS)),
            *([vxlan] if felix.vxlan else []),
            rule(in_interface(_WORKLOADS), action=set_mark(MARK_SCRATCH0)),
            rule(from_pod, action=jump("cali-rpf-skip")),
            rule(from_pod, Part("-m rpfilter --invert --validmark", Rpfilter(validmark=True, invert=True)), action=DROP),
            rule(mark_clear(MARK_SCRATCH0), action=jump("cali-from-host-endpoint")),
            rule(mark_is(MARK_ACCEPT), action=ACCEPT),
        ],
        "cali-OUTPUT": [
            rule(action=clear_mark(ALL_MARKS)),
            rule(action=jump("cali-to-host-endpoint")),
            *([vxlan] if felix.vxlan else []),
            rule(mark_is(MARK_ACCEPT), action=ACCEPT),
        ],
        "cali-rpf-skip": [],
        **_raw_hosts(felix),
    }


def _mangle(felix: Felix) -> _Chains:
    return {
        "cali-PREROUTING": [
            rule(ctstate("RELATED,ESTABLISHED"), action=ACCEPT),
            rule(mark_is(MARK_ACCEPT), action=ACCEPT),
            rule(action=jump("cali-from-host-endpoint")),
            rule(mark_is(MARK_ACCEPT), action=ACCEPT, comments=_HOST_ENDPOINT),
        ],
        "cali-POSTROUTING": [
            rule(mark_is(MARK_ACCEPT), action=RETURN),
            *([rule(_BY_IPVS, action=RETURN)] if felix.ipvs else []),
            rule(action=clear_mark(ALL_MARKS)),
            rule(ctstate("DNAT"), action=jump("cali-to-host-endpoint")),
            rule(mark_is(MARK_ACCEPT), action=RETURN, comments=_HOST_ENDPOINT),
        ],
        **_mangle_hosts(felix),
    }


def _nat(felix: Felix) -> _Chains:
    """natOutgoing: pods of pools that ask for it are masqueraded towards whatever is in no pool (nat.go NATOutgoingChain)."""
    wants, pools = felix.set_name("masq-ipam-pools"), felix.set_name("all-ipam-pools")
    outgoing = rule(in_set(wants, "src"), in_set(pools, "dst", True), action=_MASQUERADE)
    return {
        "cali-PREROUTING": [rule(action=jump("cali-fip-dnat"))],
        "cali-OUTPUT": [rule(action=jump("cali-fip-dnat"))],
        "cali-POSTROUTING": [
            rule(action=jump("cali-fip-snat")),
            rule(action=jump("cali-nat-outgoing")),
            *(rule(out_interface(t), _SRC_NOT_LOCAL_OUT, _SRC_LOCAL, action=_MASQUERADE) for t in felix.tunnels),
        ],
        "cali-fip-dnat": [],
        "cali-fip-snat": [],
        "cali-nat-outgoing": [outgoing] if felix.nat_outgoing else [],
    }


def _filter(felix: Felix) -> _Chains:
    chains: _Chains = {
        "cali-INPUT": _input(felix),
        "cali-FORWARD": [
            rule(action=clear_mark(ALL_MARKS & ~MARK_ACCEPT)),
            rule(mark_clear(MARK_ACCEPT), action=jump("cali-from-hep-forward")),
            rule(in_interface(_WORKLOADS), action=jump("cali-from-wl-dispatch")),
            rule(out_interface(_WORKLOADS), action=jump("cali-to-wl-dispatch")),
            rule(action=jump("cali-to-hep-forward")),
            rule(action=jump("cali-cidr-block")),
        ],
        "cali-OUTPUT": _output(felix),
        "cali-wl-to-host": [
            *(
                rule(
                    protocol(_ICMPV6), Part(f"-m icmp6 --icmpv6-type {number}", Icmp(6, number)), action=ACCEPT
                )
                for number in (_NEIGHBOUR_TYPES if felix.family == 6 else ())
            ),
            rule(action=jump("cali-from-wl-dispatch")),
            rule(action=ACCEPT, comments=["Configured DefaultEndpointToHostAction"]),
        ],
        "cali-cidr-block": [],
        **_filter_hosts(felix),
        **(_ipvs(felix) if felix.ipvs else {}),
    }
    devices = sorted({endpoint.device for endpoint in felix.endpoints})
    unknown = [rule(action=DROP, comments=["Unknown interface"])]
    chains.update(_dispatch("cali-from-wl-dispatch", "cali-fw-", devices, in_interface, unknown))
    chains.update(_dispatch("cali-to-wl-dispatch", "cali-tw-", devices, out_interface, unknown))
    for endpoint in felix.endpoints:
        inward, outward = endpoint.policies.ingress, endpoint.policies.egress
        chains[limited_name("cali-tw-", endpoint.device)] = _workload(endpoint, inward, "cali-pri-", _EVERYTHING)
        chains[limited_name("cali-fw-", endpoint.device)] = _workload(endpoint, outward, "cali-pro-", felix.options)
        for name, allows in endpoint.profiles:
            for prefix, direction in (("cali-pri-", "ingress"), ("cali-pro-", "egress")):
                chains[limited_name(prefix, name)] = _profile(f"Profile {name} {direction}", allows)
        for name, rules in endpoint.policies.chains.items():
            if name not in chains:  # of another pod of the node
                chains[name] = list(rules)
    return chains


def _input(felix: Felix) -> list[FelixRule]:
    rules: list[FelixRule] = []
    if felix.ipip and felix.family == 4:
        rules += [
            rule(
                protocol(_IPIP),
                in_set("cali40all-hosts-net", "src"),
                _DST_LOCAL,
                action=ACCEPT,
                comments=["Allow IPIP packets from Calico hosts"],
            ),
            rule(protocol(_IPIP), action=DROP, comments=["Drop IPIP packets from non-Calico hosts"]),
        ]
    if felix.vxlan:
        words = f"IPv{felix.family} VXLAN packets from"
        hosts = in_set(felix.set_name("all-vxlan-net"), "src")
        udp = (protocol(_UDP), dports(VXLAN_PORT))
        rules += [
            rule(*udp, hosts, _DST_LOCAL, action=ACCEPT, comments=[f"Allow {words} allowed hosts"]),
            rule(*udp, _DST_LOCAL, action=DROP, comments=[f"Drop {words} non-allowed hosts"]),
        ]
    if felix.ipvs:
        rules += [
            rule(action=clear_mark(MARK_ENDPOINT)),
            rule(action=jump("cali-forward-check")),
            rule(_BY_IPVS, action=RETURN),
        ]
    return [
        *rules,
        rule(in_interface(_WORKLOADS), action=goto("cali-wl-to-host")),
        rule(mark_is(MARK_ACCEPT), action=ACCEPT),
        rule(action=clear_mark(ALL_MARKS)),
        rule(action=jump("cali-from-host-endpoint")),
        rule(mark_is(MARK_ACCEPT), action=ACCEPT, comments=_HOST_ENDPOINT),
    ]


def _output(felix: Felix) -> list[FelixRule]:
    """What the host itself sends to a pod is not policed: `-o cali+` returns."""
    rules = [rule(mark_is(MARK_ACCEPT), action=ACCEPT)]
    rules += [rule(_BY_IPVS, action=goto("cali-forward-endpoint-mark"))] if felix.ipvs else []
    rules.append(rule(out_interface(_WORKLOADS), action=RETURN))
    if felix.ipip and felix.family == 4:
        hosts = in_set("cali40all-hosts-net", "dst")
        comments = ["Allow IPIP packets to other Calico hosts"]
        rules.append(rule(protocol(_IPIP), hosts, _SRC_LOCAL, action=ACCEPT, comments=comments))
    if felix.vxlan:
        hosts = in_set(felix.set_name("all-vxlan-net"), "dst")
        comments = [f"Allow IPv{felix.family} VXLAN packets to other allowed hosts"]
        rules.append(rule(protocol(_UDP), dports(VXLAN_PORT), _SRC_LOCAL, hosts, action=ACCEPT, comments=comments))
    return [
        *rules,
        rule(action=clear_mark(ALL_MARKS)),
        rule(ctstate("DNAT", True), action=jump("cali-to-host-endpoint")),
        rule(mark_is(MARK_ACCEPT), action=ACCEPT, comments=_HOST_ENDPOINT),
    ]


def _dispatch(
    chain: str, endpoint_prefix: str, devices: Sequence[str], on: Callable[[str], Part], end: Sequence[FelixRule] = ()
) -> _Chains:
    """A shallow tree by the first character in which the devices' names differ (dispatch.go buildSingleDispatchChains); `end`
    is for all others."""

    def leaf(device: str) -> FelixRule:
        return rule(on(device), action=goto(limited_name(endpoint_prefix, device)))

    common = _common_prefix(devices)
    bins: dict[str, list[str]] = {}
    for device in devices:
        bins.setdefault(device[: len(common) + 1], []).append(device)
    chains: _Chains = {}
    root: list[FelixRule] = []
    for start, members in bins.items():
        if len(members) == 1:
            root.append(leaf(members[0]))
            continue
        child = f"{chain}-{start[len(common) :]}"
        root.append(rule(on(start + "+"), action=goto(child)))
        chains[child] = [*map(leaf, members), *end]
    chains[chain] = [*root, *end]
    return chains


def _common_prefix(names: Sequence[str]) -> str:
    """Of sorted names."""
    if not names:
        return ""
    first, last = names[0], names[-1]
    n = 0
    while n < min(len(first), len(last)) and first[n] == last[n]:
        n += 1
    return first[:n]


_EVERYTHING = FelixOptions(vxlan_from_workloads=True, ipip_from_workloads=True)


def _workload(
    endpoint: Endpoint, policies: Sequence[FelixRule], profile_prefix: str, options: FelixOptions
) -> list[FelixRule]:
    """A workload's chain for one direction (endpoints.go endpointIptablesChain). Accepted means: the mark is set on return."""
    rules = [*_TRACKED, rule(action=clear_mark(MARK_ACCEPT | MARK_PASS))]
    said = "encapped packets originating in workloads"
    if not options.vxlan_from_workloads:
        rules.append(rule(protocol(_UDP), dports(VXLAN_PORT), action=DROP, comments=[f"Drop VXLAN {said}"]))
    if not options.ipip_from_workloads:
        rules.append(rule(protocol(_IPIP), action=DROP, comments=[f"Drop IPinIP {said}"]))
    return [*rules, *policies, *_profiles([name for name, _ in endpoint.profiles], profile_prefix)]


_TRACKED = [rule(ctstate("RELATED,ESTABLISHED"), action=ACCEPT), rule(ctstate("INVALID"), action=DROP)]


def _profiles(names: Sequence[str], prefix: str) -> list[FelixRule]:
    rules: list[FelixRule] = []
    for name in names:
        rules += [
            rule(action=jump(limited_name(prefix, name))),
            rule(mark_is(MARK_ACCEPT), action=RETURN, comments=["Return if profile accepted"]),
        ]
    return [*rules, rule(action=DROP, comments=["Drop if no profiles matched"])]


# -- kube-proxy in ipvs mode (static.go, dispatch.go EndpointMarkDispatchChains, epmark.go) -------------------------------
#
# A packet that IPVS forwards passes INPUT and OUTPUT instead of FORWARD. INPUT still knows the device that it came in by, OUTPUT
# the one that it goes out by: a mark carries the one to the other.

_BY_IPVS = mark_not_clear(MARK_ENDPOINT)
NODE_PORTS = PortRange(30000, 32767)  # config_params.go KubeNodePortRanges


def endpoint_marks(devices: Iterable[str]) -> dict[str, int]:
    """The mark of each device: a hash of its name, the next free one where that is taken (here in the order given).

    >>> {device: hex(mark) for device, mark in endpoint_marks(["cali0d7763386da"]).items()}
    {'cali0d7763386da': '0x35a00000'}
    """
    shift = (MARK_ENDPOINT & -MARK_ENDPOINT).bit_length() - 1
    size = (MARK_ENDPOINT >> shift) + 1
    taken = {0, MARK_NO_ENDPOINT >> shift}
    marks: dict[str, int] = {}
    for device in devices:
        hashed_name = 0x811C9DC5  # FNV-1
        for byte in device.encode():
            hashed_name = (hashed_name * 0x01000193 & 0xFFFFFFFF) ^ byte
        free = next((n % size for n in range(hashed_name, hashed_name + size) if n % size not in taken), None)
        if free is not None:
            taken.add(free)
            marks[device] = free << shift
    return marks


def _ipvs(felix: Felix) -> _Chains:
    """What tells forwarded packets from the host's own, and what is done with them."""
    here = felix.set_name("this-host")
    to_set = "cali-set-endpoint-mark"
    workloads = sorted({endpoint.device for endpoint in felix.endpoints})
    hosts = sorted(host.device for host in felix.hosts if host.device != ANY_INTERFACE)
    marks = endpoint_marks([*workloads, *hosts])
    chains: _Chains = {
        "cali-forward-check": [
            rule(ctstate("RELATED,ESTABLISHED"), action=RETURN),
            *(
                rule(
                    protocol(number, name),
                    ports("dst", [NODE_PORTS]),
                    in_set(here, "dst"),
                    action=goto(to_set),
                    comments=["To kubernetes NodePort service"],
                )
                for number, name in ((6, "tcp"), (17, "udp"))
            ),
            rule(in_set(here, "dst", True), action=jump(to_set), comments=["To kubernetes service"]),
        ],
        "cali-forward-endpoint-mark": [
            rule(mark_is_not(MARK_NO_ENDPOINT, MARK_ENDPOINT), action=jump("cali-from-endpoint-mark")),
            rule(out_interface(_WORKLOADS), action=jump("cali-to-wl-dispatch")),
            rule(action=jump("cali-to-hep-forward")),
            rule(action=clear_mark(MARK_ENDPOINT)),
            rule(mark_is(MARK_ACCEPT), action=ACCEPT, comments=["Policy explicitly accepted packet."]),
        ],
    }
    root: list[FelixRule] = []
    for devices in (workloads, hosts):
        found = _dispatch(to_set, "cali-sm-", devices, in_interface)
        root += found.pop(to_set)
        chains.update(found)
    chains[to_set] = [
        *root,
        rule(in_interface(_WORKLOADS), action=DROP, comments=["Unknown endpoint"]),
        rule(action=set_masked_mark(MARK_NO_ENDPOINT, MARK_ENDPOINT), comments=["Non-Cali endpoint mark"]),
    ]
    chains["cali-from-endpoint-mark"] = [
        *(
            rule(mark_is(marks[device], MARK_ENDPOINT), action=goto(limited_name(prefix, device)))
            for prefix, devices in (("cali-fw-", workloads), ("cali-fhfw-", hosts))
            for device in devices
            if device in marks
        ),
        rule(action=DROP, comments=["Unknown interface"]),
    ]
    for device in (*workloads, *hosts):
        made = [rule(action=set_masked_mark(marks[device], MARK_ENDPOINT))] if device in marks else []
        chains[limited_name("cali-sm-", device)] = made
    return chains


# -- host endpoints (endpoints.go HostEndpointTo...Chains, dispatch.go hostDispatchChains, static.go failsafe...Chain) ----

_NAMED = {6: "tcp", 17: "udp", 132: "sctp"}
_IN, _OUT = "cali-failsafe-in", "cali-failsafe-out"


def _failsafe(felix: Felix, untracked: bool) -> _Chains:
    """Ports that are always open. The raw table lets their answers through, too: it does not know yet what belongs together."""
    wanted = felix.options

    def opened(side: str, other: str, number: int, port: int, of: Prefix | None) -> FelixRule:
        nets = [net(other, of)] if of is not None else []
        return rule(protocol(number, _NAMED[number]), ports(side, [PortRange(port, port)]), *nets, action=ACCEPT)

    chains = {}
    for name, other, asked, answered in (
        (_IN, "src", wanted.failsafe_in, wanted.failsafe_out),
        (_OUT, "dst", wanted.failsafe_out, wanted.failsafe_in),
    ):
        both = [*(("dst", *each) for each in asked), *(("src", *each) for each in (answered if untracked else ()))]
        chains[name] = [
            opened(side, other, number, port, of)
            for side, number, port, of in both
            if of is None or of.family == felix.family
        ]
    return chains


def _host_dispatch(
    chain: str, prefix: str, on: Callable[[str], Part], hosts: Sequence[HostInterface], skip: Sequence[FelixRule] = ()
) -> _Chains:
    """To the chain of the packet's device; where there is an endpoint for all of them, to its chain at the end."""
    devices = sorted(host.device for host in hosts if host.device != ANY_INTERFACE)
    end = [rule(action=goto(limited_name(prefix, ANY_INTERFACE)))] if len(devices) < len(hosts) else []
    return _dispatch(chain, prefix, devices, on, [*skip, *end] if end else [])


def _filter_hosts(felix: Felix) -> _Chains:
    chains: _Chains = {
        **_host_dispatch("cali-from-host-endpoint", "cali-fh-", in_interface, felix.hosts),
        **_host_dispatch("cali-to-host-endpoint", "cali-th-", out_interface, felix.hosts),
        **_host_dispatch("cali-from-hep-forward", "cali-fhfw-", in_interface, felix.hosts),
        **_host_dispatch("cali-to-hep-forward", "cali-thfw-", out_interface, felix.hosts),
        **_failsafe(felix, False),
    }
    for host in felix.hosts:
        normal, forward = host.normal, host.forward
        for prefix, safe, rules, profiles in (
            ("cali-fh-", _IN, normal.ingress, "cali-pri-"),
            ("cali-th-", _OUT, normal.egress, "cali-pro-"),
        ):
            begin = [*_TRACKED, rule(action=jump(safe)), rule(action=clear_mark(MARK_ACCEPT | MARK_PASS))]
            chains[limited_name(prefix, host.device)] = [*begin, *rules, *_profiles(host.profiles, profiles)]
        for prefix in ("cali-fhfw-", "cali-thfw-"):
            begin = [*_TRACKED, rule(action=clear_mark(MARK_ACCEPT | MARK_PASS))]
            if forward is None:
                begin += [
                    rule(action=set_mark(MARK_ACCEPT), comments=["Allow forwarded traffic by default"]),
                    rule(action=RETURN, comments=["Return for accepted forward traffic"]),
                ]
            else:
                begin += forward.ingress if prefix == "cali-fhfw-" else forward.egress
            chains[limited_name(prefix, host.device)] = begin
        for policies in (normal, forward or Policies()):
            chains.update({name: list(rules) for name, rules in policies.chains.items()})
    if felix.hosts:
        chains.update({name: list(rules) for name, rules in felix.profiles.items()})
    return chains


def _mangle_hosts(felix: Felix) -> _Chains:
    """Before DNAT: what comes in by a device with such policies. Behind it: what the host itself sends to a service's endpoint,
    whose way out is not known before this table."""
    before = [host for host in felix.hosts if host.pre_dnat is not None]
    local = rule(out_interface(_WORKLOADS), action=RETURN, comments=["Skip egress WHEP policy for traffic to local workload"])
    chains: _Chains = {
        **_host_dispatch("cali-from-host-endpoint", "cali-fh-", in_interface, before),
        **_host_dispatch("cali-to-host-endpoint", "cali-th-", out_interface, felix.hosts, [local]),
        **_failsafe(felix, False),
    }
    clear = rule(action=clear_mark(MARK_ACCEPT | MARK_PASS))
    for host in felix.hosts:
        known = ctstate("RELATED,ESTABLISHED")
        chains[limited_name("cali-th-", host.device)] = [
            rule(known, action=set_mark(MARK_ACCEPT)),
            rule(known, action=RETURN),
            rule(ctstate("INVALID"), action=DROP),
            rule(action=jump(_OUT)),
            clear,
            *host.normal.egress,
            *_profiles(host.profiles, "cali-pro-"),
        ]
        if host.pre_dnat is not None:
            begin = [*_TRACKED, rule(action=jump(_IN)), clear]
            chains[limited_name("cali-fh-", host.device)] = [*begin, *host.pre_dnat.ingress]
        for policies in (host.normal, host.pre_dnat or Policies()):
            chains.update({name: list(rules) for name, rules in policies.chains.items()})
    if felix.hosts:
        chains.update({name: list(rules) for name, rules in felix.profiles.items()})
    return chains


def _raw_hosts(felix: Felix) -> _Chains:
    """Policies with doNotTrack; for an endpoint of all devices there are none (endpoint_mgr.go)."""
    hosts = [host for host in felix.hosts if host.untracked is not None and host.device != ANY_INTERFACE]
    chains: _Chains = {
        **_host_dispatch("cali-from-host-endpoint", "cali-fh-", in_interface, hosts),
        **_host_dispatch("cali-to-host-endpoint", "cali-th-", out_interface, hosts),
        **_failsafe(felix, True),
    }
    for host in hosts:
        policies = host.untracked or Policies()
        for prefix, safe, rules in (("cali-fh-", _IN, policies.ingress), ("cali-th-", _OUT, policies.egress)):
            begin = [rule(action=jump(safe)), rule(action=clear_mark(MARK_ACCEPT | MARK_PASS))]
            chains[limited_name(prefix, host.device)] = [*begin, *rules]
        chains.update({name: list(rules) for name, rules in policies.chains.items()})
    return chains


def _profile(comment: str, allows: bool) -> list[FelixRule]:
    if not allows:
        return [rule(comments=[comment])]
    return [rule(action=set_mark(MARK_ACCEPT), comments=[comment]), rule(mark_is(MARK_ACCEPT), action=RETURN)]
