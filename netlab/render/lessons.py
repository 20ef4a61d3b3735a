"""Why a step is what it is, in words for somebody who learns it, and questions to check oneself with.

Law: each sentence states what the trace's step and its neighbours say, with the names in it; general knowledge (what a chain of
kube-proxy's is for) is in literal tables. Nothing is decided here, and where the step does not tell why, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from netlab.linux.netns import DeviceKind, Netns, RouteType
from netlab.render.chains import Run, ends
from netlab.trace.steps import (
    AnyStep,
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
    PolicyStep,
    Proxied,
    Received,
    Rejected,
    Routed,
    RuleStep,
    Sent,
    Trace,
    Transmitted,
    UnknownStep,
)

# What chains are for: by the beginning of their names, longest first. kube-proxy's pkg/proxy, Felix's rules, flanneld.
_CHAINS = {
    "KUBE-SERVICES": "kube-proxy's entrance: one rule for each service address; whoever matches goes to that service's chain",
    "KUBE-SVC-": "one service: a rule for each endpoint; each is taken by chance, so that all get the same share",
    "KUBE-SVL-": "one service, endpoints on this node alone (traffic policy Local)",
    "KUBE-EXT-": "one service, for those who come from outside: marks them for masquerading where that is needed",
    "KUBE-FW-": "one load balancer's address: who may come in (loadBalancerSourceRanges)",
    "KUBE-SEP-": "one endpoint: the destination becomes the pod's own address (DNAT)",
    "KUBE-NODEPORTS": "ports that are open on every node, and so the last thing that KUBE-SERVICES asks",
    "KUBE-MARK-MASQ": "puts a mark on the packet: POSTROUTING will replace its source address",
    "KUBE-MARK-DROP": "puts a mark on the packet: the filter table will drop it",
    "KUBE-POSTROUTING": "masquerades the packets that carry kube-proxy's mark, and lets all others go",
    "KUBE-FORWARD": "lets through what kube-proxy has marked, and answers of connections that are known",
    "KUBE-PROXY-FIREWALL": "drops what a load balancer's source ranges do not allow",
    "KUBE-EXTERNAL-SERVICES": "services that have no endpoint for those who come from outside: rejected here",
    "KUBE-FIREWALL": "keeps outsiders away from what listens on 127.0.0.0/8",
    "FLANNEL-FWD": "flanneld: whatever is from or to the pod network may be forwarded",
    "FLANNEL-POSTRTG": "flanneld: pods that leave the pod network get the node's address",
    "cali-FORWARD": "Felix's entrance for what is forwarded",
    "cali-from-wl-dispatch": "Felix: which pod does this come from? Its device leads to its chain",
    "cali-to-wl-dispatch": "Felix: which pod is this for? Its device leads to its chain",
    "cali-fw-": "Felix: everything from one pod: its egress policies, in their order",
    "cali-tw-": "Felix: everything to one pod: its ingress policies, in their order",
    "cali-pi-": "Felix: one policy's ingress rules; a mark says that it allows the packet",
    "cali-po-": "Felix: one policy's egress rules; a mark says that it allows the packet",
    "cali-pri-": "Felix: a profile's ingress rules (what holds for a pod that no policy selects)",
    "cali-pro-": "Felix: a profile's egress rules (what holds for a pod that no policy selects)",
    "cali-PREROUTING": "Felix's entrance before routing: clears its marks, knows packets that come from pods",
    "cali-POSTROUTING": "Felix's exit",
    "cali-INPUT": "Felix's entrance for what is for the node itself",
    "cali-OUTPUT": "Felix's entrance for what the node itself sends",
    "cali-nat-outgoing": "Felix: pods that leave the pool get the node's address (natOutgoing)",
    "cali-fip-dnat": "Felix: floating addresses",
    "cali-wl-to-host": "Felix: what pods send to their own node",
}
_NFT_CHAINS = {
    "services": "kube-proxy's entrance: a map from service addresses and ports to the service's chain, one lookup for all",
    "service-": "one service: `numgen random` draws a number, a map gives the endpoint's chain for it",
    "external-": "one service, for those who come from outside",
    "endpoint-": "one endpoint: the destination becomes the pod's own address (dnat)",
    "masquerading": "masquerades the packets that carry kube-proxy's mark",
    "mark-for-masquerade": "puts a mark on the packet: postrouting will replace its source address",
    "nat-prerouting": "what arrives on the node, before the route is chosen",
    "nat-output": "what the node itself sends",
    "nat-postrouting": "what leaves the node, after the route is chosen",
    "service-endpoints-check": "services without endpoints: rejected or dropped",
    "cluster-ips-check": "addresses and ports that belong to no service are refused",
    "firewall-check": "drops what a load balancer's source ranges do not allow",
    "nodeport-endpoints-check": "NodePorts without endpoints: rejected or dropped",
}


class Lesson(msgspec.Struct, frozen=True):
    """What surrounds a step: the trace, its hop, what follows in the hop, the packet before and after, the namespace."""

    trace: Trace
    hop: Hop
    later: Sequence[Run | AnyStep]
    before: Header | None
    after: Header | None
    netns: Netns | None


def chain(name: str, table: str) -> str:
    """What a chain is for, "" where it is not a known program's."""
    known = _NFT_CHAINS if table.startswith("nft ") else _CHAINS
    best = max((key for key in known if name == key or (key.endswith("-") and name.startswith(key))), key=len, default="")
    return known.get(best, "")


def tunnel(vni: int | None) -> str:
    return "IP-in-IP" if vni is None else f"VXLAN, VNI {vni}"


def route_words(step: Routed) -> str:
    """Where a route leads, short."""
    if step.type == "local":
        return "for this very machine: up to it"
    if step.type not in ("unicast", ""):
        return f"{step.type} {step.destination}"
    via = f" by the gateway {step.via}" if step.via else ", on the link"
    return f"through {step.device}{via}"


def why(item: Run | AnyStep, lesson: Lesson) -> str:
    """One to three sentences, or "" where there is nothing to explain."""
    match item:
        case Run():
            return _run(item, lesson)
        case Sent():
            return _sent(item, lesson)
        case Received():
            return _received(item, lesson)
        case Routed():
            return _routed(item, lesson)
        case NeighbourStep():
            return _neighbour(item)
        case Bridged():
            return _bridged(item)
        case Conntracked():
            return _conntracked(item)
        case Natted():
            return _natted(item, lesson)
        case IpvsStep():
            return _ipvs(item)
        case Encapsulated():
            return _encapsulated(item, lesson)
        case Decapsulated():
            return (
                f"The outer headers have done their work. {item.device} takes them off, and the packet inside goes on "
                "as if it had "
                "just arrived by this device: it is tracked, filtered and routed anew."
            )
        case MtuStep():
            return _mtu(item)
        case Transmitted():
            return f"The frame leaves by {item.device}. At the other end of the wire is {item.to}." if item.to else ""
        case PolicyStep():
            return _policy(item, lesson)
        case Delivered():
            return _delivered(item)
        case Proxied():
            return (
                "In userspace mode kube-proxy is a program in the middle: it accepts the client's connection itself, "
                "and opens a second one "
                "to an endpoint. What follows are the second connection's packets."
            )
        case Dropped():
            return "Nothing more is heard of the packet, and nobody is told: the sender waits until it gives up."
        case Rejected():
            return f"The sender is told no at once ({item.answer}), and need not wait."
        case UnknownStep():
            return "netlab does not model this, and does not guess."
        case NoteStep():
            return ""
        case HookStep() | RuleStep():
            raise AssertionError("gathered by runs()")
        case _ as never:
            assert_never(never)


def _sent(step: Sent, lesson: Lesson) -> str:
    packet, to = step.packet, lesson.trace.destination
    if packet.inner is not None:
        return (
            "The tunnel's packet is one that the node itself sends: it is routed and filtered like any other of the node's own."
        )
    if packet.quoted is not None:
        return "An error message: it quotes the packet that it speaks of, so that the sender knows which connection is meant."
    first = "The first packet of a connection (SYN). " if packet.flags == "SYN" else ""
    if packet.flags == "SYN,ACK":
        first = "The answer to the SYN. It goes back to whoever the packet said it was from. "
    if to.kind == "service" and packet.destination == to.ip:
        return (
            f"{first}{packet.destination} is the address of service {to.name}. No device has it: somebody on the way "
            "must replace it "
            "by a pod's address."
        )
    return first.strip()


def _received(step: Received, lesson: Lesson) -> str:
    bridge = next((s for s in lesson.later if isinstance(s, Bridged) and s.port_in == step.device), None)
    if bridge is not None and _has_rules(lesson.later):
        return (
            f"{step.device} is a port of the bridge {bridge.bridge}. With bridge-nf-call-iptables even frames on a bridge pass "
            "netfilter's rules, which is why a service's address can be replaced before the bridge looks where to."
        )
    if any(isinstance(s, Decapsulated) for s in lesson.later):
        return "To this machine it is a UDP packet for itself. That another packet is inside, only the tunnel's device will see."
    return ""


def _has_rules(later: Sequence[Run | AnyStep]) -> bool:
    for item in later:
        if isinstance(item, Bridged):
            return False
        if isinstance(item, Run):
            return True
    return False


def _routed(step: Routed, lesson: Lesson) -> str:
    looked = step.destination
    match step.type:
        case "local":
            return f"{looked} is an address of {lesson.hop.where} itself, so the packet has arrived here and is handed upwards."
        case "blackhole" | "unreachable" | "prohibit":
            return f"The route for {looked} says {step.type}: nothing goes there."
        case _:
            pass
    if not step.route:
        return ""
    target = step.route.split(" ", 1)[0]
    kind = lesson.netns.devices[step.device].kind if lesson.netns is not None and step.device in lesson.netns.devices else None
    if target == "default":
        text = f"{looked} is in none of the networks that {lesson.hop.where} has a route for, so the default route holds"
        text += f": let the gateway {step.via} find the way." if step.via else "."
    elif kind in (DeviceKind.VXLAN, DeviceKind.IPIP):
        text = (
            f"{looked} is in {target}, the pods of another node. Their route leads into {step.device}: the fabric does "
            "not know pod "
            "addresses, so the packet has to travel inside one between nodes."
        )
    elif step.via:
        text = f"{looked} is in {target}, and the way there is by the gateway {step.via}."
    else:
        text = f"{looked} is in {target}, right on {step.device}: no gateway is needed, only the MAC of whoever has the address."
    if step.source:
        text += f" The sender had not chosen an address yet; the route gives it {step.source}."
    if "bridged" in step.note:
        text += (
            " The way leads back to the bridge that it came by, so it stays a frame and is not routed: its TTL stays what it is."
        )
    return text


def _neighbour(step: NeighbourStep) -> str:
    match step.how:
        case "permanent":
            return (
                f"A frame needs a MAC. The entry for {step.ip} is permanent: somebody has written it here (for tunnels "
                "the CNI's daemon "
                "does), so that nobody need be asked."
            )
        case "proxy_arp":
            return (
                f"Nobody has the address {step.ip}. {step.owner} answers for it all the same (proxy ARP), and so gets "
                "every packet of the "
                "pod: all that matters is that frames come to the node."
            )
        case "fdb":
            return f"The forwarding database says behind which tunnel end a MAC is: {step.ip}."
        case "ndp" | "arp":
            asked = "Neighbour discovery asks" if step.how == "ndp" else "ARP asks"
            return f"A frame needs a MAC. {asked} on {step.device} who has {step.ip}; {step.owner or 'its owner'} answers."
        case _:
            return ""


def _bridged(step: Bridged) -> str:
    if step.port_out == step.bridge:
        return (
            f"{step.mac or 'The destination MAC'} is the bridge's own: the frame is for the node, whose IP stack will route "
            "what is in it."
        )
    if step.port_in == step.bridge:
        return f"The node hands a frame to {step.bridge}, which knows the MAC behind port {step.port_out}."
    return (
        f"The MAC {step.mac} is behind another port, {step.port_out}. The frame is passed on as it is: a bridge looks "
        "at MACs, not at IP, "
        "and counts no TTL down."
    )


def _conntracked(step: Conntracked) -> str:
    match step.state:
        case "NEW":
            return (
                "No connection with these addresses is known here: it is a new one. The nat table is asked for its "
                "first packet alone."
            )
        case "ESTABLISHED" if step.direction == "reply":
            return (
                "An answer of a connection that is known: what NAT did to it on the way there is undone, and no nat rule "
                "is asked."
            )
        case "ESTABLISHED":
            return "A connection that is known: NAT is as it was for its first packet, and no nat rule is asked again."
        case "RELATED":
            return "Not of the connection itself, but about it: an error message that quotes one of its packets."
        case "INVALID":
            return "It fits no connection, and cannot be the first packet of one."
        case "UNTRACKED":
            return "A rule said not to track it."
        case _:
            return ""


def _run(run: Run, lesson: Lesson) -> str:
    end = run.end
    tried = end.tried if end is not None else sum(max(1, r.tried) for r in run.rules)
    if end is not None and end.verdict == "drop" and end.by != "rule":
        return f"No rule lets it pass, and the policy of chain {end.chain} is to drop what none has decided."
    if run.rules and ends(run.rules[-1]):
        return "The last of these rules decides: what it matches goes no further."
    if run.quiet:
        hook = _HOOKS.get(run.hook.upper(), "")
        return f"{hook}Of {tried} rules none has anything to say about this packet." if tried > 1 else hook.strip()
    nat = _next_nat(lesson.later)
    chance = next((r.chance for r in run.rules if r.chance and r.chance != "?"), "")
    if nat is not None and nat.kind == "dnat":
        left = "" if run.rules[0].is_nft else " of what the rules before it have left"
        drawn = f" Here chance had its say: this rule takes {chance}{left}." if chance else ""
        return (
            f"The chains lead from the service's address to one endpoint.{drawn} The last rule says to replace the destination."
        )
    if nat is not None:
        return "The last rule says to replace the source address, so that the answer comes back to this node."
    if chance:
        return f"Here chance had its say: with probability {chance} the packet goes this way."
    if any(r.effect.startswith("mark") for r in run.rules) and not any("accept" in r.effect for r in run.rules):
        return "A mark is a number that the kernel keeps with the packet inside this machine; later rules ask for it."
    if run.rules and run.rules[-1].effect.lower().startswith("accept"):
        return "The last rule accepts it: this table asks no further at this hook."
    return ""


_HOOKS = {
    "PREROUTING": "PREROUTING sees packets before a route is chosen. ",
    "INPUT": "INPUT sees what is for the machine itself. ",
    "FORWARD": "FORWARD sees what only passes through. ",
    "OUTPUT": "OUTPUT sees what the machine itself sends. ",
    "POSTROUTING": "POSTROUTING is the last stop before the packet leaves. ",
}


def _next_nat(later: Sequence[Run | AnyStep]) -> Natted | None:
    first = next(iter(later), None)
    return first if isinstance(first, Natted) and not first.reverse else None


def _natted(step: Natted, lesson: Lesson) -> str:
    if step.reverse:
        return (
            "Connection tracking remembers what was replaced, and puts it back: the sender must get its answer from "
            "the address that it "
            "asked, or it would not know it."
        )
    if step.kind == "dnat":
        return (
            "From here on the packet is for the endpoint itself, and is routed there. The connection's entry in "
            "conntrack keeps both "
            "addresses, so that answers can be turned back."
        )
    random = " Its port is drawn at random." if "random" in step.note else ""
    return f"The packet now seems to come from this node. The destination will see, and answer, the new address.{random}"


def _ipvs(step: IpvsStep) -> str:
    if step.action == "no server":
        return "The virtual service exists, but none of its real servers takes new connections."
    if step.action == "connection":
        return "IPVS knows this connection: it goes where its first packet went."
    how = f" {step.method.capitalize()} mode." if step.method else ""
    return (
        f"IPVS finds the service in a hash table, however many there are, and its scheduler {step.scheduler} chooses: "
        f"{step.why}.{how}"
    )


def _encapsulated(step: Encapsulated, lesson: Lesson) -> str:
    outer = step.outer
    if step.vni is None:
        return (
            f"{step.device} puts an IP header with the nodes' addresses in front: 20 bytes more. The fabric sees "
            f"{outer.source} and "
            f"{outer.destination} alone."
        )
    head = 20 if ":" not in outer.source else 40
    return (
        f"{step.device} puts the whole frame, Ethernet header and all, into a UDP packet from node to node: "
        f"{head + 8 + 8 + 14} bytes more "
        f"(IP {head}, UDP 8, VXLAN 8, inner Ethernet 14). The fabric sees {outer.source} and {outer.destination} alone."
    )


def _mtu(step: MtuStep) -> str:
    if step.length <= step.mtu:
        return ""
    return f"{step.device} carries at most {step.mtu} bytes. {step.note.capitalize()}." if step.note else ""


def _policy(step: PolicyStep, lesson: Lesson) -> str:
    if not step.direction:
        return ""
    if not step.selected and step.says == "allowed":
        return (
            f"A pod that no policy selects for {step.direction} may {'send' if step.direction == 'egress' else 'receive'} "
            "anything."
        )
    if step.says == "denied" and not step.enforced:
        return "This is what the policy says; but nothing in this cluster enforces policies, so the packet goes on."
    if step.says == "denied":
        rule = "" if step.rule is not None else " A pod that is selected may only do what some rule allows, and none does."
        return f"The decision is made by the rules of the node, which you will see further on.{rule}"
    if step.says == "allowed" and not step.enforced:
        return "Nothing in this cluster enforces policies; here it makes no difference."
    return ""


def _delivered(step: Delivered) -> str:
    if step.socket.startswith("socket of"):
        return "The answer has the addresses that the sender expects, the other way round: its socket takes it."
    return "A socket listens on this address and port: the packet has arrived."


# ---------------------------------------------------------------------------------------------- questions


def quiz(item: Run | AnyStep, lesson: Lesson) -> tuple[str, str, tuple[str, ...]] | None:
    """A question, its answer, and choices (in a fixed order) among which it is; None where there is nothing to ask."""
    where = lesson.hop.where
    match item:
        case Routed():
            answer = f"up: it is for {where} itself" if item.type == "local" else f"out by {item.device}"
            devices = _out_devices(lesson.netns, 6 if ":" in item.destination else 4)
            others = [f"up: it is for {where} itself", *(f"out by {name}" for name in devices[:4])]
            return f"Where does {where} send a packet for {item.destination}?", answer, _choices(answer, others)
        case Run():
            answer = _outcome(item, lesson)
            hook = f"{item.table} {item.hook}"
            return f"What do the rules of {hook} do with this packet?", answer, _choices(answer, _OUTCOMES)
        case Natted():
            swapped = " > ".join(reversed(item.after.split(" > ")))
            return "What are its addresses afterwards?", item.after, _choices(item.after, [item.before, swapped])
        case Bridged():
            up = f"up to {where}, to be routed"
            answer = up if item.port_out == item.bridge else f"to port {item.port_out}"
            return f"Where does the bridge {item.bridge} pass the frame?", answer, _choices(answer, [up, "to every port"])
        case Conntracked() if item.state in ("NEW", "ESTABLISHED"):
            return f"What is this packet to {where}'s connection tracking?", item.state, ("NEW", "ESTABLISHED", "INVALID")
        case Encapsulated() if lesson.before is not None:
            was, now = lesson.before.length, item.outer.length
            few = [f"{was} bytes, as before", f"{was + 8} bytes", f"{now} bytes"]
            return f"The IP packet has {was} bytes. How long is it inside {tunnel(item.vni)}?", f"{now} bytes", tuple(few)
        case Delivered() | Dropped() | Rejected():
            fates = {"Delivered": "a socket takes it", "Dropped": "it is dropped", "Rejected": "it is refused with an answer"}
            return "What becomes of the packet?", fates[type(item).__name__], tuple(fates.values())
        case _:
            return None


def _out_devices(netns: Netns | None, family: int) -> list[str]:
    """The devices that some route of a family leads out by."""
    routes = netns.routes if netns is not None else ()
    found = [route.nexthops for route in routes if route.dst.family == family and route.type is RouteType.UNICAST]
    return list(dict.fromkeys(hop.dev for hops in found for hop in hops if hop.dev != "lo"))


_OUTCOMES = (
    "let it pass as it is",
    "replace its destination (DNAT)",
    "replace its source (SNAT)",
    "stop it",
    "mark it and let it pass",
)


def _outcome(run: Run, lesson: Lesson) -> str:
    nat = _next_nat(lesson.later)
    if nat is not None:
        return _OUTCOMES[1] if nat.kind == "dnat" else _OUTCOMES[2]
    if run.end is None or run.end.verdict == "drop":
        return _OUTCOMES[3]
    if any(rule.effect.startswith(("mark", "ct mark")) for rule in run.rules):
        return _OUTCOMES[4]
    return _OUTCOMES[0]


def _choices(answer: str, others: Sequence[str]) -> tuple[str, ...]:
    """At most five, the answer among them, in an order that does not give it away."""
    every = sorted(dict.fromkeys([answer, *others]))
    return tuple(every) if len(every) <= 5 else tuple(sorted([answer, *[o for o in every if o != answer][:4]]))
