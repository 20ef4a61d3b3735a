"""Traces written by hand, as the walker tells them, for the tests of netlab.render: a packet's story without a walker.

default/web-0 (10.244.0.7) on node-1 -> default/hostnames (10.96.1.175:80) -> 10.244.0.3 on node-1, 10.244.1.2 and .3 on node-2
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from netlab.refs import Ref
from netlab.trace.steps import (
    AnyStep,
    Branch,
    Bridged,
    Conntracked,
    Decapsulated,
    Delivered,
    Dropped,
    Encapsulated,
    Header,
    HookStep,
    Hop,
    IpvsStep,
    MtuStep,
    Natted,
    NeighbourStep,
    NoteStep,
    Party,
    PolicyStep,
    Proxied,
    Received,
    Rejected,
    Reply,
    Routed,
    RuleStep,
    Sent,
    Trace,
    Transmitted,
    UnknownStep,
    Verdict,
)

CLIENT, SERVICE = "10.244.0.7", "10.96.1.175"
WEB = Party("web-0", "default/web-0", "pod", CLIENT, None, "default/web-0")
HOSTNAMES = Party("svc/hostnames:80", "default/hostnames", "service", SERVICE, 80)
OBJECT = Ref(file="cluster.json", object="Service default/hostnames")
SVC = "KUBE-SVC-YN5D6RYVEVZOH44Q"
SEPS = {
    "10.244.0.3": ("KUBE-SEP-MH3CMF764B5SAC7Q", "hostnames-0", 2, "1/3"),
    "10.244.1.2": ("KUBE-SEP-O5WZPWJXWTGE55GX", "hostnames-1", 3, "1/2"),
    "10.244.1.3": ("KUBE-SEP-FPA5UNNWICNUMPQL", "hostnames-2", 4, ""),
}


def tcp(source: str, destination: str, flags: str = "SYN", ttl: int = 64, mark: int = 0) -> Header:
    """A TCP packet between "ip:port" and "ip:port"."""
    (src, sport), (dst, dport) = source.rsplit(":", 1), destination.rsplit(":", 1)
    return Header("TCP", src, dst, int(sport), int(dport), flags, ttl, 60, mark)


def quiet(hook: str, table: str, tried: int = 0) -> HookStep:
    return HookStep(hook=hook, table=table, chain=hook, verdict="accept", tried=tried)


def jump(hook: str, table: str, chain: str, number: int, text: str, chance: str = "", ref: Ref | None = None) -> RuleStep:
    return RuleStep(
        hook=hook, table=table, chain=chain, number=number, rule=f"-A {chain} {text}", effect="jump", chance=chance, ref=ref
    )


def kube_forward(hook: str = "FORWARD") -> tuple[AnyStep, ...]:
    """kube-proxy's filter rules for a new connection that nothing in them stops."""
    new = "-m conntrack --ctstate NEW -m comment --comment"
    return (
        jump(hook, "filter", hook, 1, f'{new} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
        jump(hook, "filter", hook, 2, '-m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD'),
        jump(hook, "filter", hook, 3, f'{new} "kubernetes service portals" -j KUBE-SERVICES'),
        quiet(hook, "filter", 9),
    )


def postrouting() -> tuple[AnyStep, ...]:
    """No masquerading: kube-proxy's mark is not set, flannel leaves pod-to-pod traffic alone."""
    chain = "POSTROUTING"
    return (
        quiet(chain, "mangle"),
        jump(chain, "nat", chain, 1, '-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING'),
        RuleStep(
            hook=chain,
            table="nat",
            chain="KUBE-POSTROUTING",
            number=1,
            rule="-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            effect="return",
            tried=1,
        ),
        jump(chain, "nat", chain, 2, '-m comment --comment "flanneld masq" -j FLANNEL-POSTRTG'),
        RuleStep(
            hook=chain,
            table="nat",
            chain="FLANNEL-POSTRTG",
            number=2,
            rule='-A FLANNEL-POSTRTG -s 10.244.0.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN',
            effect="return",
            tried=2,
        ),
        quiet(chain, "nat", 5),
    )


def leave_pod(request: Header, by: str = "pod default/web-0") -> Hop:
    return Hop(
        "default/web-0",
        "pod",
        (
            Sent(packet=request, by=by),
            Routed(
                destination=request.destination,
                type="unicast",
                device="eth0",
                via="10.244.0.1",
                route="default via 10.244.0.1 dev eth0",
                rule=32766,
            ),
            NeighbourStep(ip="10.244.0.1", mac="0a:58:0a:f4:00:01", device="eth0", how="arp", owner="node-1/cni0"),
            Transmitted(device="eth0", to="node-1/veth5c9e1f2a", packet=request),
        ),
    )


def enter_node(request: Header) -> tuple[AnyStep, ...]:
    return (
        Received(device="veth5c9e1f2a", packet=request),
        Bridged(bridge="cni0", port_in="veth5c9e1f2a", port_out="cni0", mac="0a:58:0a:f4:00:01"),
        quiet("PREROUTING", "raw"),
        Conntracked(state="NEW", direction="original", original=str(request), reply=f"{request.destination}:80 > {CLIENT}:32768"),
        quiet("PREROUTING", "mangle"),
    )


def service_rules(address: str) -> tuple[AnyStep, ...]:
    """The nat table's walk from KUBE-SERVICES to one endpoint."""
    sep, _, number, chance = SEPS[address]
    at = {"hook": "PREROUTING", "table": "nat", "ref": OBJECT}
    portal = f'-d {SERVICE}/32 -p tcp -m comment --comment "default/hostnames cluster IP" -m tcp --dport 80 -j {SVC}'
    random = {
        "1/3": "-m statistic --mode random --probability 0.33333333349 ",
        "1/2": "-m statistic --mode random --probability 0.50000000000 ",
    }
    choose = f'-m comment --comment "default/hostnames -> {address}:9376" {random.get(chance, "")}-j {sep}'
    dnat = f'-p tcp -m comment --comment "default/hostnames" -m tcp -j DNAT --to-destination {address}:9376'
    rules = (
        RuleStep(
            chain="PREROUTING",
            number=1,
            rule='-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
            effect="jump",
            hook="PREROUTING",
            table="nat",
            tried=1,
        ),
        RuleStep(chain="KUBE-SERVICES", number=12, rule=f"-A KUBE-SERVICES {portal}", effect="jump", tried=12, **at),
        RuleStep(chain=SVC, number=number, rule=f"-A {SVC} {choose}", effect="jump", chance=chance, tried=number, **at),
        RuleStep(
            chain=sep,
            number=2,
            rule=f"-A {sep} {dnat}",
            effect=f"dnat to {address}:9376",
            comment="default/hostnames",
            tried=2,
            **at,
        ),
    )
    end = HookStep(hook="PREROUTING", table="nat", chain="PREROUTING", verdict="accept", by="rule", tried=15 + number)
    return (*rules, end, Natted(kind="dnat", before=f"{CLIENT}:32768 > {SERVICE}:80", after=f"{CLIENT}:32768 > {address}:9376"))


def tunnel(inner: Header, source: str, destination: str) -> Header:
    return Header("UDP", source, destination, 53412, 8472, length=110, sport_random=True, vni=1, inner=inner)


def same_node_branch(probability: Fraction = Fraction(1, 3)) -> Branch:
    """web-0 -> hostnames-0 on the same node: across the bridge twice."""
    request, seen = tcp(f"{CLIENT}:32768", f"{SERVICE}:80"), tcp(f"{CLIENT}:32768", "10.244.0.3:9376", ttl=63)
    answer = tcp("10.244.0.3:9376", f"{CLIENT}:32768", "SYN,ACK")
    back = tcp(f"{SERVICE}:80", f"{CLIENT}:32768", "SYN,ACK", ttl=63)
    hops = (
        leave_pod(request),
        Hop(
            "node-1",
            "node",
            (
                *enter_node(request),
                *service_rules("10.244.0.3"),
                Routed(
                    destination="10.244.0.3",
                    type="unicast",
                    device="cni0",
                    route="10.244.0.0/24 dev cni0 scope link src 10.244.0.1",
                ),
                quiet("FORWARD", "mangle"),
                *kube_forward(),
                *postrouting(),
                NeighbourStep(ip="10.244.0.3", mac="0a:58:0a:f4:00:03", device="cni0", how="arp", owner="default/hostnames-0"),
                Bridged(bridge="cni0", port_in="cni0", port_out="veth01d2e3f4", mac="0a:58:0a:f4:00:03"),
                Transmitted(device="veth01d2e3f4", to="default/hostnames-0/eth0", packet=seen),
            ),
        ),
        Hop(
            "default/hostnames-0",
            "pod",
            (
                Received(device="eth0", packet=seen),
                Delivered(socket="10.244.0.3:9376", owner="pod default/hostnames-0", packet=seen),
            ),
        ),
    )
    reply = Reply(
        "reply",
        True,
        (
            Hop("default/hostnames-0", "pod", (Sent(packet=answer, by="pod default/hostnames-0"),)),
            Hop(
                "node-1",
                "node",
                (
                    Received(device="veth01d2e3f4", packet=answer),
                    Conntracked(state="ESTABLISHED", direction="reply"),
                    Natted(kind="dnat", before=str(answer), after=str(back), reverse=True),
                ),
            ),
            Hop("default/web-0", "pod", (Delivered(socket=f"{CLIENT}:32768", owner="pod default/web-0", packet=back),)),
        ),
    )
    return Branch(
        probability, Verdict.DELIVERED, "10.244.0.3:9376", "default/hostnames-0", CLIENT, None, hops, reply,
        (f"nat {SVC} rule 2: 1/3",),
    )  # fmt: skip


def other_node_branch(address: str, probability: Fraction = Fraction(1, 3), choices: tuple[str, ...] = ()) -> Branch:
    """web-0 -> service -> DNAT -> VXLAN -> a pod on node-2, and the reply."""
    pod = f"default/{SEPS[address][1]}"
    request, seen = tcp(f"{CLIENT}:32768", f"{SERVICE}:80"), tcp(f"{CLIENT}:32768", f"{address}:9376", ttl=63)
    last = tcp(f"{CLIENT}:32768", f"{address}:9376", ttl=62)
    outer = tunnel(seen, "192.168.10.11", "192.168.10.12")
    answer = tcp(f"{address}:9376", f"{CLIENT}:32768", "SYN,ACK")
    back_outer = tunnel(answer, "192.168.10.12", "192.168.10.11")
    back = tcp(f"{SERVICE}:80", f"{CLIENT}:32768", "SYN,ACK", ttl=62)
    hops = (
        leave_pod(request),
        Hop(
            "node-1",
            "node",
            (
                *enter_node(request),
                *service_rules(address),
                Routed(
                    destination=address,
                    type="unicast",
                    device="flannel.1",
                    via="10.244.1.0",
                    route="10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
                ),
                quiet("FORWARD", "mangle"),
                *kube_forward(),
                *postrouting(),
                NeighbourStep(ip="10.244.1.0", mac="fe:52:00:00:00:02", device="flannel.1", how="permanent"),
                NeighbourStep(ip="192.168.10.12", mac="fe:52:00:00:00:02", device="flannel.1", how="fdb"),
                Encapsulated(device="flannel.1", vni=1, outer=outer),
                Routed(
                    destination="192.168.10.12",
                    type="unicast",
                    device="eth0",
                    source="192.168.10.11",
                    route="192.168.10.0/24 dev eth0",
                ),
                quiet("OUTPUT", "mangle"),
                quiet("POSTROUTING", "mangle"),
                NeighbourStep(ip="192.168.10.12", mac="52:54:00:00:00:0c", device="eth0", how="arp", owner="node-2/eth0"),
                Transmitted(device="eth0", to="node-2/eth0", packet=outer),
            ),
        ),
        Hop(
            "node-2",
            "node",
            (
                Received(device="eth0", packet=outer),
                quiet("PREROUTING", "mangle"),
                Routed(
                    destination="192.168.10.12", type="local", device="lo", table="local", route="local 192.168.10.12 dev eth0"
                ),
                quiet("INPUT", "mangle"),
                quiet("INPUT", "filter", 12),
                Decapsulated(device="flannel.1", vni=1, inner=seen),
                quiet("PREROUTING", "mangle"),
                quiet("PREROUTING", "nat", 14),
                Routed(
                    destination=address, type="unicast", device="cni0", route="10.244.1.0/24 dev cni0 scope link src 10.244.1.1"
                ),
                *kube_forward(),
                Bridged(bridge="cni0", port_in="cni0", port_out="vethaa01", mac="0a:58:0a:f4:01:02"),
                Transmitted(device="vethaa01", to=f"{pod}/eth0", packet=last),
            ),
        ),
        Hop(
            pod,
            "pod",
            (Received(device="eth0", packet=last), Delivered(socket=f"{address}:9376", owner=f"pod {pod}", packet=last)),
        ),
    )
    reply = Reply(
        "reply",
        True,
        (
            Hop(pod, "pod", (Sent(packet=answer, by=f"pod {pod}"),)),
            Hop(
                "node-2",
                "node",
                (Received(device="vethaa01", packet=answer), Encapsulated(device="flannel.1", vni=1, outer=back_outer)),
            ),
            Hop(
                "node-1",
                "node",
                (
                    Received(device="eth0", packet=back_outer),
                    Decapsulated(device="flannel.1", vni=1, inner=answer),
                    Conntracked(state="ESTABLISHED", direction="reply"),
                    Natted(kind="dnat", before=str(answer), after=str(back), reverse=True),
                ),
            ),
            Hop("default/web-0", "pod", (Delivered(socket=f"{CLIENT}:32768", owner="pod default/web-0", packet=back),)),
        ),
    )
    return Branch(probability, Verdict.DELIVERED, f"{address}:9376", pod, CLIENT, None, hops, reply, choices)


ASSUMED = (
    "no kube-proxy ConfigMap: mode iptables, clusterCIDR 10.244.0.0/16",
    "no CNI found in kube-system: flannel with VXLAN",
)


def vxlan() -> Trace:
    """One endpoint on another node."""
    return Trace(WEB, HOSTNAMES, "TCP", Verdict.DELIVERED, (other_node_branch("10.244.1.2", Fraction(1)),), ASSUMED)


def three_branches() -> Trace:
    return Trace(
        WEB,
        HOSTNAMES,
        "TCP",
        Verdict.DELIVERED,
        (
            same_node_branch(),
            other_node_branch("10.244.1.2", choices=(f"nat {SVC} rule 3: 1/2",)),
            other_node_branch("10.244.1.3"),
        ),
        ASSUMED,
        ("NetworkPolicy default/web-egress selects default/web-0",),
    )


def node_1(request: Header, *steps: AnyStep) -> tuple[Hop, ...]:
    return leave_pod(request), Hop("node-1", "node", (*enter_node(request), *steps))


def stopped(destination: Party, verdict: Verdict, hops: Sequence[Hop], reason: str, reply: Reply | None = None) -> Trace:
    return Trace(WEB, destination, "TCP", verdict, (Branch(Fraction(1), verdict, None, None, None, reason, tuple(hops), reply),))


def rejected() -> Trace:
    """A service without endpoints: kube-proxy rejects, the ICMP error goes back."""
    request = tcp(f"{CLIENT}:32768", "10.96.3.1:80")
    error = Header("ICMP", "10.244.0.1", CLIENT, flags="port unreachable", length=88, quoted=request)
    ref = Ref(file="dumps/node-1/iptables-save", line=41)
    rule = (
        '-A KUBE-SERVICES -d 10.96.3.1/32 -p tcp -m comment --comment "default/nobody:http has no endpoints" -m tcp --dport 80 '
        "-j REJECT --reject-with icmp-port-unreachable"
    )
    comment, reject = "default/nobody:http has no endpoints", "reject with icmp-port-unreachable"
    reason = f"filter KUBE-SERVICES rule 1 on node-1: {rule} ({ref})"
    new = "-m conntrack --ctstate NEW -m comment --comment"
    hops = node_1(
        request,
        HookStep(hook="PREROUTING", table="nat", chain="PREROUTING", verdict="accept", tried=20, origin="observed"),
        Routed(destination="10.96.3.1", type="unicast", device="eth0", route="default via 192.168.10.1 dev eth0"),
        jump("FORWARD", "filter", "FORWARD", 1, f'{new} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL'),
        jump("FORWARD", "filter", "FORWARD", 3, f'{new} "kubernetes service portals" -j KUBE-SERVICES'),
        RuleStep(
            hook="FORWARD",
            table="filter",
            chain="KUBE-SERVICES",
            number=1,
            rule=rule,
            effect=reject,
            comment=comment,
            tried=1,
            ref=ref,
        ),
        HookStep(hook="FORWARD", table="filter", chain="FORWARD", verdict="drop", by="rule", tried=5, origin="observed"),
        Rejected(reason=reason, answer="ICMP port unreachable", ref=ref),
    )
    reply = Reply(
        "error",
        True,
        (
            Hop("node-1", "node", (Sent(packet=error, by="kernel of node-1"),)),
            Hop(
                "default/web-0",
                "pod",
                (Received(device="eth0", packet=error), Delivered(socket=CLIENT, owner="pod default/web-0", packet=error)),
            ),
        ),
    )
    nobody = Party("svc/nobody:http", "default/nobody", "service", "10.96.3.1", 80)
    return stopped(nobody, Verdict.REJECTED, hops, reason, reply)


def unknown() -> Trace:
    """A rule that netlab does not understand decides."""
    request = tcp(f"{CLIENT}:32768", "10.244.1.2:9376")
    rule = "-A FORWARD -m bpf --object-pinned /sys/fs/bpf/filter -j DROP"
    ref = Ref(file="dumps/node-1/iptables-save", line=17)
    hops = node_1(
        request,
        RuleStep(hook="FORWARD", table="filter", chain="FORWARD", number=2, rule=rule, effect="undecided", ref=ref, tried=2),
        UnknownStep(what=f"the match bpf in {rule}", ref=ref),
    )
    return stopped(
        Party("10.244.1.2:9376", "10.244.1.2", "address", "10.244.1.2", 9376), Verdict.UNKNOWN, hops, f"depends on {rule}"
    )


def mtu_drop() -> Trace:
    """A packet of 1,500 bytes with DF does not fit into flannel's 1,450."""
    request = Header("UDP", CLIENT, "10.244.1.2", 32768, 53, length=1500)
    error = Header("ICMP", "10.244.0.1", CLIENT, flags="fragmentation needed", quoted=request)
    hops = node_1(
        request,
        Routed(
            destination="10.244.1.2",
            type="unicast",
            device="flannel.1",
            route="10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
        ),
        MtuStep(device="flannel.1", mtu=1450, length=1500, note="DF is set"),
        Dropped(reason="too big for flannel.1 (MTU 1450) and DF is set"),
    )
    reply = Reply(
        "error",
        False,
        (
            Hop(
                "node-1",
                "node",
                (
                    Sent(packet=error, by="kernel of node-1"),
                    RuleStep(
                        hook="OUTPUT", table="filter", chain="OUTPUT", number=1, rule="-A OUTPUT -p icmp -j DROP", effect="drop",
                        ref=Ref(file="dumps/node-1/iptables-save", line=9),
                    ),
                    Dropped(reason="filter OUTPUT rule 1"),
                ),
            ),
        ),
        "filter OUTPUT rule 1 on node-1",
    )  # fmt: skip
    trace = stopped(
        Party("hostnames-1:53", "default/hostnames-1", "pod", "10.244.1.2", 53),
        Verdict.DROPPED,
        hops,
        "too big for flannel.1",
        reply,
    )
    return Trace(trace.source, trace.destination, "UDP", trace.verdict, trace.branches)


def partial() -> Trace:
    """Two endpoints answer; traffic to the third dies in somebody's FORWARD rule on node-2."""
    good, also, _ = three_branches().branches
    lost = other_node_branch("10.244.1.3")
    drop = Ref(file="iptables-save", line=41)
    rule = '-A FORWARD -d 10.244.1.3/32 -m comment --comment "quarantine" -j DROP'
    arrived = lost.hops[2]
    died = Hop(
        arrived.where,
        arrived.kind,
        (
            *arrived.steps[:9],
            RuleStep(
                hook="FORWARD",
                table="filter",
                chain="FORWARD",
                number=3,
                rule=rule,
                effect="drop",
                comment="quarantine",
                ref=drop,
                tried=3,
            ),
            Dropped(reason="filter FORWARD rule 3", ref=drop),
        ),
    )
    branch = Branch(Fraction(1, 3), Verdict.DROPPED, None, None, None, "filter FORWARD rule 3 on node-2", (*lost.hops[:2], died))
    return Trace(WEB, HOSTNAMES, "TCP", Verdict.PARTIAL, (good, also, branch))


def lost_reply() -> Trace:
    """The request arrives; the reply dies on node-2."""
    branch = other_node_branch("10.244.1.2", Fraction(1))
    assert branch.reply
    policy = HookStep(hook="FORWARD", table="filter", chain="FORWARD", verdict="drop", tried=4, origin="observed")
    at_node_2 = Hop("node-2", "node", (branch.reply.hops[1].steps[0], policy, Dropped(reason="policy DROP of filter FORWARD")))
    reply = Reply("reply", False, (branch.reply.hops[0], at_node_2), "policy DROP of filter FORWARD on node-2")
    seen = (branch.endpoint, branch.endpoint_name, branch.source_seen)
    died = Branch(Fraction(1), Verdict.DROPPED, *seen, "the reply died on node-2", branch.hops, reply)
    return Trace(WEB, HOSTNAMES, "TCP", Verdict.DROPPED, (died,))


def every_step() -> Trace:
    """One of each kind of step, none of them in a likely place; IPv6, marks, masquerading with a random port."""
    inner = Header(
        "TCP",
        "fd00:10:244::7",
        "fd00:10:244:1::2",
        32768,
        9376,
        "SYN",
        mark=0x4000,
        src_mac="0a:58:00:00:00:07",
        dst_mac="0a:58:00:00:00:01",
    )
    outer = Header("IPIP", "192.168.10.11", "192.168.10.12", inner=inner)
    at = {"hook": "POSTROUTING", "table": "nat"}
    steps: tuple[AnyStep, ...] = (
        Sent(packet=inner, by="kernel of node-1"),
        Received(device="eth0", packet=outer),
        Routed(destination="fd00:10:244:1::2", type="blackhole", table="100", source="fd00::1", rule=100, note="no other route"),
        Routed(destination="fd00:10:244:1::2", type="unicast", device="eth0", via="fe80::1"),
        NeighbourStep(ip="fe80::1", mac="52:54:00:00:00:01", device="eth0", how="ndp", owner="node-2"),
        Bridged(bridge="cni0", port_in="cni0", port_out="veth1", note="flooded to 3 ports"),
        Conntracked(state="INVALID"),
        RuleStep(
            **at,
            chain="KUBE-MARK-MASQ",
            number=1,
            rule="-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            effect="mark 0x4000",
        ),
        RuleStep(**at, chain="COUNT", number=3, rule="-A COUNT -p tcp", comment="only counts"),
        HookStep(**at, chain="POSTROUTING", verdict="accept", by="return to policy", tried=7, origin="observed"),
        Natted(
            kind="snat",
            before="[fd00:10:244::7]:32768 > [fd00:10:244:1::2]:9376",
            after="[fd00::1]:* > [fd00:10:244:1::2]:9376",
            note="masquerade",
        ),
        IpvsStep(
            hook="INPUT",
            action="scheduled",
            service="-A -t 10.96.0.10:53 -s wrr",
            server="10.244.0.3:53",
            rule="-a -t 10.96.0.10:53 -r 10.244.0.3:53 -m -w 1",
            method="masquerade",
            scheduler="wrr",
            why="weighted round robin",
            chance="1/3",
        ),
        IpvsStep(hook="INPUT", action="no server", service="-A -f 7 -s rr", scheduler="rr", origin="observed"),
        Encapsulated(device="tunl0", vni=None, outer=outer),
        Decapsulated(device="tunl0", vni=None, inner=inner),
        MtuStep(device="eth0", mtu=1500, length=60, note="checked"),
        Transmitted(device="eth0", to="node-2/eth0", packet=inner),
        PolicyStep(text="no policy selects default/hostnames-1 for ingress"),
        NoteStep(text="the bridge floods"),
        Delivered(socket="[fd00:10:244:1::2]:9376", owner="pod default/hostnames-1", packet=inner, assumed=True),
        Proxied(service="default/hostnames:http", backend="10.244.1.2:9376", attempt=1, number=2, of=3),
        Proxied(service="default/hostnames:http", backend="10.244.1.3:9376", attempt=2, number=3, of=3),
        Proxied(service="default/dns", backend="10.244.1.3:53", attempt=1, number=1, of=1, protocol="UDP"),
        Proxied(service="default/dns", backend="10.244.1.3:53", attempt=1, number=1, of=1, protocol="UDP", back=True),
        Dropped(reason="rp_filter"),
        Rejected(reason="nothing listens", answer="TCP RST"),
        UnknownStep(what="an XDP program on eth0", ref=Ref(object="Node node-1")),
    )
    hops = (Hop("node-1", "node", steps),)
    branch = Branch(
        Fraction(715827883, 2**31), Verdict.UNKNOWN, None, None, None, "an XDP program on eth0", hops, Reply("reply", False, ())
    )
    rest = Branch(1 - branch.probability, Verdict.DROPPED, None, None, None, None, ())
    source, to = (
        Party("internet", "internet", "external"),
        Party("fd00:10:244:1::2", "fd00:10:244:1::2", "address", "fd00:10:244:1::2", 9376),
    )
    return Trace(source, to, "TCP", Verdict.PARTIAL, (branch, rest))


TRACES = {make.__name__: make for make in (vxlan, three_branches, rejected, unknown, mtu_drop, partial, lost_reply, every_step)}
