"""Netfilter for one walk: hooks, chains, connection tracking, NAT.

Law: the order of things at a hook is that of linux/hooks.py, interpreted here; a chain is walked as ipt_do_table does; the
nat table is asked once per connection and direction of manipulation (nf_nat_core.c); whatever a rule does becomes a step.
State (the connections of every namespace, `recent` lists) belongs to one run of one walk.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from msgspec.structs import replace

from netlab.linux.addr import V4_ALL, V6_ALL, Ip
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.hooks import Function
from netlab.linux.matches import Comment
from netlab.linux.netns import Netns
from netlab.linux.nft import Element, NftTable
from netlab.linux.packet import ACK, FIN, ICMP, ICMPV6, RST, SCTP, SYN, TCP, UDP, Flow, Packet
from netlab.linux.plan import NatChain, plans
from netlab.linux.route import select_source
from netlab.linux.rules import Chain, Hook, Rule, Table
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
    SetTarget,
    Snat,
    Tcpmss,
    Tproxy,
    TraceTarget,
    UnknownTarget,
)
from netlab.match.naive import rule_holds
from netlab.match.view import Chance, View, nice
from netlab.trace import nftables
from netlab.trace.choices import Chooser
from netlab.trace.ipvs import Ipvs
from netlab.trace.skb import Outcome, Skb
from netlab.trace.steps import AnyStep, Conntracked, HookStep, Natted, RuleStep
from netlab.trace.tally import Tally

Emit = Callable[[str, AnyStep], None]
ZonedTuple = tuple[int, bool, Flow]  # zone, whether it is the reply's tuple, the tuple
MAX_FORKED_PORTS = 64  # a NAT port range up to this size is explored port by port

_GRE = 47
_ICMP_REQUESTS = {ICMP: (8, 13, 15, 17), ICMPV6: (128,)}  # nf_conntrack_proto_icmp{,v6}.c: what may open a connection


class Netfilter:
    """Hooks and connection tracking of all namespaces during one run."""

    def __init__(self, chooser: Chooser, emit: Emit, ipvs: Ipvs) -> None:
        self.chooser = chooser
        self.emit = emit
        self.ipvs = ipvs
        self.connections: dict[str, dict[ZonedTuple, tuple[Connection, bool]]] = {}
        self.recent: dict[str, set[tuple[str, int]]] = {}
        self.changed_sets: dict[str, set[str]] = {}
        self.nft_changes: dict[str, dict[tuple[str, str, str], dict[tuple[int, ...], Element | None]]] = {}
        self.tally: Tally | None = None

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def hook(self, skb: Skb, hook: Hook, indev: str, outdev: str) -> Outcome | None:
        """Run everything registered at a hook; returns how the packet ended there, or None if it goes on."""
        stages = plans(skb.netns, skb.packet.family).get(hook)
        if not stages:
            return None
        view = View(
            packet=skb.packet,
            hook=hook,
            netns=skb.netns,
            indev=indev,
            outdev=outdev,
            physin=skb.physin,
            physout=skb.physout,
            ct=skb.ct,
            local=skb.socket,
            recent=self.recent.setdefault(skb.netns.name, set()),
            changed_sets=self.changed_sets.setdefault(skb.netns.name, set()),
            nft_changes=self.nft_changes.setdefault(skb.netns.name, {}),
            ipvs=skb.ipvs,
            virtual=self.ipvs.connections(skb.netns) if skb.netns.ipvs else None,
        )
        if hook is Hook.PREROUTING and (passed := nftables.ingress(skb.netns.rulesets[skb.packet.family], indev)):
            return Outcome("unknown", f"{passed} on {skb.netns.name}: chains at ingress are not modelled", skb.netns.name)
        for stage in stages:
            before = skb.packet
            if stage.nft is not None:
                outcome = nftables.walk(self, skb, view, *stage.nft)
                if hook is Hook.OUTPUT and stage.nft[1].type == "route":
                    _reroute(skb, before)
            elif stage.chain is not None and stage.table is not None:
                outcome = self._chain(skb, view, stage.table, stage.chain)
                if hook is Hook.OUTPUT and stage.table.name == "mangle":
                    _reroute(skb, before)
            elif stage.function is Function.CONNTRACK:
                outcome = self._conntrack_in(skb, view)
            elif stage.function is Function.CONFIRM:
                outcome = self.confirm(skb)
            elif stage.function is Function.IPVS_REPLY:
                outcome = self.ipvs.reply(skb, view)
            elif stage.function is Function.IPVS_REQUEST:
                outcome = self.ipvs.request(skb, view)
            elif stage.function is Function.IPVS_ICMP:
                outcome = self.ipvs.forward_icmp(skb, view)
            else:
                outcome = self._nat(skb, view, stage.function is Function.NAT_SRC, stage.chains)
                if hook is Hook.OUTPUT and skb.ct is not None and _has_other_destination(skb.ct):
                    skb.reroute = skb.packet
            if outcome is not None:
                return outcome
        return None

    @staticmethod
    def attached(skb: Skb) -> CtView | None:
        """The connection that an answer to the packet belongs to."""
        return attached(skb)

    @staticmethod
    def template(family: int) -> CtView:
        """What a rule sees after one that chose a zone."""
        return _template(family)

    @staticmethod
    def rewrite(skb: Skb, view: View, packet: Packet) -> None:
        skb.packet = packet
        view.packet = packet

    # -- chains --------------------------------------------------------------------------------------------------------

    def _chain(self, skb: Skb, view: View, table: Table, base: Chain) -> Outcome | None:
        """Walk a base chain (ip_tables.c ipt_do_table); None where the packet goes on."""
        chains = table.chains
        chain, position = base, 0
        stack: list[tuple[Chain, int]] = []
        tried = since = 0
        rules = chain.rules
        while True:
            if position >= len(rules):
                if not stack:
                    return self._policy(skb, view, table, base, tried)
                chain, position = stack.pop()
                rules = chain.rules
                since = 0
                continue
            rule = rules[position]
            position += 1
            tried += 1
            since += 1
            if self.tally is not None:
                self.tally.rule(view, table, chain, rule)
            answer = rule_holds(rule, view)
            if answer is False:
                continue
            chance = ""
            if answer is not True:
                where = f"{table.name} {chain.name} rule {position}"
                if isinstance(answer, Chance):
                    p = nice(answer.probability)
                    if p <= 0 or (p < 1 and self.chooser.choose((p, 1 - p), f"{where}: {p}")):
                        continue
                    chance = str(p)
                elif not self.chooser.undecidable(f"{where} on {skb.netns.name}: -A {chain.name} {rule} ({answer.reason})"):
                    continue
                else:
                    chance = "?"

            def hit(effect: str) -> None:
                self._hit(skb, view, table, chain, position, rule, effect, chance, since)  # noqa: B023

            match rule.target:
                case None:
                    hit("")
                case Jump(chain=name, goto=goto):
                    hit("goto" if goto else "jump")
                    if not goto:
                        stack.append((chain, position))
                    chain, position, since = chains[name], 0, 0
                    rules = chain.rules
                case Return():
                    hit("return")
                    if not stack:
                        return self._policy(skb, view, table, base, tried)
                    chain, position = stack.pop()
                    rules = chain.rules
                    since = 0
                case Accept():
                    hit("accept")
                    self._ended(skb, view, table, base, "accept", "rule", tried)
                    return None
                case Drop():
                    hit("drop")
                    self._ended(skb, view, table, base, "drop", "rule", tried)
                    return Outcome("dropped", self._by(skb, table, chain, position, rule), skb.netns.name)
                case Reject(kind=kind):
                    hit(f"reject with {kind}")
                    self._ended(skb, view, table, base, "drop", "rule", tried)
                    reason = self._by(skb, table, chain, position, rule)
                    return Outcome("rejected", reason, skb.netns.name, answer_ct=attached(skb), owner=kind)
                case SetMark(value=value, mask=mask):
                    mark = (view.packet.mark & ~mask & 0xFFFFFFFF) ^ value
                    hit(f"mark {view.packet.mark:#x} -> {mark:#x}")
                    if mark != view.packet.mark:
                        self.rewrite(skb, view, replace(view.packet, mark=mark))
                case SetConnmark():
                    hit(self._connmark(skb, view, rule.target))
                case Ct(notrack=notrack, zone=zone):
                    if skb.ct is None and skb.template is None:  # xt_CT.c xt_ct_target: the first one decides
                        skb.untracked = notrack
                        skb.zone, skb.zone_direction = zone or 0, rule.target.zone_direction
                        skb.template = view.ct = CtView(CtState.UNTRACKED) if notrack else _template(view.packet.family)
                    hit("notrack" if notrack else f"zone {zone}" if zone is not None else "ct")
                case Dnat() | Snat() | Masquerade() | Redirect() | Netmap():
                    outcome = self.nat_target(skb, view, rule.target, hit)
                    self._ended(skb, view, table, base, "accept" if outcome is None else "drop", "rule", tried)
                    if outcome is not None and not outcome.reason:
                        outcome.reason = self._by(skb, table, chain, position, rule)
                    return outcome
                case Log(kind=kind):
                    hit(kind.lower())
                case TraceTarget():
                    hit("trace")
                case SetTarget(text=text):
                    words = text.split()
                    if "--map-set" in words:  # sets mark, priority or queue from the set's entry
                        hit("not modelled")
                        reason = f"{self._by(skb, table, chain, position, rule)} (--map-set is not modelled)"
                        return Outcome("unknown", reason, skb.netns.name)
                    view.changed_sets |= {name for word, name in pairwise(words) if word in ("--add-set", "--del-set")}
                    hit("set")
                case Tcpmss():
                    hit("tcpmss")
                case Checksum():
                    hit("checksum")
                case Tproxy() | UnknownTarget():
                    hit("not modelled")
                    reason = f"{self._by(skb, table, chain, position, rule)} (target not modelled)"
                    return Outcome("unknown", reason, skb.netns.name)

    def _policy(self, skb: Skb, view: View, table: Table, base: Chain, tried: int) -> Outcome | None:
        verdict = "drop" if base.policy == "DROP" else "accept"
        self._ended(skb, view, table, base, verdict, "policy", tried)
        if verdict == "accept":
            return None
        return Outcome("dropped", f"policy of {table.name} {base.name} on {skb.netns.name} is DROP", skb.netns.name)

    def _ended(self, skb: Skb, view: View, table: Table, base: Chain, verdict: str, by: str, tried: int) -> None:
        if tried or verdict != "accept":
            origin = skb.netns.rulesets[view.packet.family].origin
            name = view.hook.value
            self.emit(skb.netns.name, HookStep(name, table.name, base.name, verdict, by, tried, origin))

    def _hit(
        self, skb: Skb, view: View, table: Table, chain: Chain, number: int, rule: Rule, effect: str, chance: str, tried: int
    ) -> None:
        texts = skb.netns.cache.setdefault("rule texts", {})
        assert isinstance(texts, dict)
        key = (chain.name, id(rule))  # the entry holds the rule, so that its id stays its own
        known = texts.get(key)
        if known is None:
            comment = next((m.text for m in rule.matches if type(m) is Comment), "")
            known = texts[key] = (f"-A {chain.name} {rule}".rstrip(), comment, rule)
        self.emit(
            skb.netns.name,
            RuleStep(
                view.hook.value, table.name, chain.name, number, known[0], effect, known[1], chance, tried, ref=rule.ref
            ),
        )

    @staticmethod
    def _by(skb: Skb, table: Table, chain: Chain, number: int, rule: Rule) -> str:
        origin = f" ({rule.ref})" if rule.ref is not None and str(rule.ref) else ""
        return f"{table.name} {chain.name} rule {number} on {skb.netns.name}: -A {chain.name} {rule}{origin}"

    def _connmark(self, skb: Skb, view: View, target: SetConnmark) -> str:
        """xt_connmark.c connmark_tg."""
        connection = skb.ct.connection if skb.ct is not None else None
        if connection is None:
            return "no connection to mark"
        if target.action == "set":
            connection.mark = (connection.mark & ~target.ctmask & 0xFFFFFFFF) ^ target.value
            return f"ct mark {connection.mark:#x}"
        if target.action == "save":
            new = (connection.mark & ~target.ctmask & 0xFFFFFFFF) ^ (view.packet.mark & target.nfmask)
            connection.mark = new
            return f"ct mark {new:#x}"
        mark = (view.packet.mark & ~target.nfmask & 0xFFFFFFFF) ^ (connection.mark & target.ctmask)
        self.rewrite(skb, view, replace(view.packet, mark=mark))
        return f"mark {mark:#x}"

    # -- connection tracking -------------------------------------------------------------------------------------------

    def _conntrack_in(self, skb: Skb, view: View) -> Outcome | None:
        """nf_conntrack_core.c nf_conntrack_in: find or make the connection of a packet."""
        if skb.ct is None:
            skb.ct = self._resolve(skb)
            connection = skb.ct.connection
            self.emit(
                skb.netns.name,
                Conntracked(
                    skb.ct.state.value,
                    "" if connection is None else "reply" if skb.ct.is_reply else "original",
                    str(connection.original) if connection else "",
                    str(connection.reply) if connection else "",
                ),
            )
            if connection is not None and connection.confirmed and connection.original == connection.reply:
                what = f"connection {connection.original} has one tuple for both directions, a packet may be taken for either"
                return Outcome("unknown", what, skb.netns.name)
        view.ct = skb.ct
        return None

    def _resolve(self, skb: Skb) -> CtView:
        if skb.untracked:
            return CtView(CtState.UNTRACKED)
        packet = skb.packet
        table = self.connections.setdefault(skb.netns.name, {})
        if packet.quoted is not None:  # nf_conntrack_proto_icmp.c icmp_error_message: the reverse of the quoted packet
            found = _find(table, skb, packet.quoted.flow.reversed())
            if found is None:
                return CtView(CtState.INVALID)
            return CtView(CtState.RELATED, found[0], found[1])
        flow = packet.flow
        found = _find(table, skb, flow)
        if found is not None:
            connection, is_reply = found
            if not is_reply and not _is_expected(connection, packet):
                return CtView(CtState.INVALID)
            _assure(connection, packet, is_reply)
            if packet.protocol == TCP and packet.tcp_flags & RST and not connection.seen_reply:
                self.forget(skb.netns, connection)
            if is_reply:
                connection.seen_reply = True
                return CtView(CtState.ESTABLISHED, connection, True)
            return CtView(CtState.ESTABLISHED if connection.seen_reply else CtState.NEW, connection)
        if not _may_open(packet):
            return CtView(CtState.INVALID)
        picked_up = packet.protocol == TCP and packet.tcp_flags & SYN == 0
        return CtView(CtState.NEW, Connection(flow, flow.reversed(), skb.zone, skb.zone_direction, picked_up=picked_up))

    def confirm(self, skb: Skb) -> Outcome | None:
        """nf_conntrack_confirm: both tuples enter the table once the packet has survived.

        An error or reset made for a packet that did not survive belongs to its connection but does not confirm it.
        """
        connection = skb.ct.connection if skb.ct is not None and not skb.ct.is_reply else None
        if connection is not None and not connection.confirmed:
            connection.confirmed = True
            table = self.connections.setdefault(skb.netns.name, {})
            for is_reply, flow in ((False, connection.original), (True, connection.reply)):
                zone = _zone_id(connection.zone, connection.zone_direction, is_reply)
                table.setdefault((zone, is_reply, flow), (connection, is_reply))
        return None

    def forget(self, netns: Netns, connection: Connection | None) -> None:
        """nf_ct_kill: a connection leaves the table. TCP's does where a reset is the only answer (nf_conntrack_tcp_packet)."""
        entries = self.connections.get(netns.name, {})
        self.connections[netns.name] = {key: known for key, known in entries.items() if known[0] is not connection}

    # -- NAT -----------------------------------------------------------------------------------------------------------

    def _nat(self, skb: Skb, view: View, source: bool, chains: tuple[NatChain, ...]) -> Outcome | None:
        """nf_nat_core.c nf_nat_inet_fn: ask the nat chains for a new connection, then apply what is bound to it."""
        ct = skb.ct
        if ct is None or ct.connection is None:
            return None
        connection = ct.connection
        if ct.state is CtState.RELATED and skb.packet.is_icmp_error:
            return self._nat_icmp_error(skb, view, source, ct)
        if ct.state in (CtState.NEW, CtState.RELATED) and not (connection.src_done if source else connection.dst_done):
            for each in chains:
                if isinstance(each[0], NftTable):
                    outcome = nftables.walk(self, skb, view, each[0], each[1])
                else:
                    outcome = self._chain(skb, view, each[0], each[1])
                if outcome is not None:
                    return outcome
                if connection.src_done if source else connection.dst_done:
                    break
            if source:
                connection.src_done = True
                self._make_unique(skb, connection)
            else:
                connection.dst_done = True
        elif source and connection.masq_dev not in ("", view.outdev) and view.hook is Hook.POSTROUTING and not ct.is_reply:
            # nf_nat.h nf_nat_oif_changed: killed, and the packet with it
            self.forget(skb.netns, connection)
            was = f"a connection that MASQUERADE gave an address of {connection.masq_dev}"
            return Outcome("dropped", f"{was} leaves through {view.outdev} now: it is forgotten", skb.netns.name)
        manipulated = (connection.snat if source else connection.dnat) if not ct.is_reply else (
            connection.dnat if source else connection.snat
        )
        if not manipulated:
            return None
        target = (connection.original if ct.is_reply else connection.reply).reversed()
        packet = skb.packet
        if source:
            changed = _with_source(packet, target)
            if connection.random_port and connection.snat and not ct.is_reply:
                changed = replace(changed, sport_random=True)
            elif ct.is_reply and packet.protocol in (ICMP, ICMPV6):
                changed = replace(changed, sport_random=False)
        else:
            changed = _with_destination(packet, target)
            if connection.random_port and packet.protocol in (ICMP, ICMPV6):
                # icmp_manip_pkt: the id is the tuple's, whichever side is translated
                changed = replace(changed, sport_random=not ct.is_reply)
        if changed != packet:
            kind = "snat" if source else "dnat"
            note = "port chosen at random" if changed.sport_random and not packet.sport_random else ""
            self.emit(skb.netns.name, Natted(kind, str(_flow(packet)), _star(changed), ct.is_reply, note))
            self.rewrite(skb, view, changed)
        return None

    def _nat_icmp_error(self, skb: Skb, view: View, source: bool, ct: CtView) -> Outcome | None:
        """nf_nat_proto.c nf_nat_icmp_reply_translation: the quoted packet and the outer header are translated back."""
        connection = ct.connection
        packet = skb.packet
        if connection is None or packet.quoted is None:
            return None
        if ct.is_reply:
            manipulated = connection.dnat if source else connection.snat
            other = connection.original
        else:
            manipulated = connection.snat if source else connection.dnat
            other = connection.reply
        if not manipulated:
            return None
        quoted = packet.quoted
        if source:  # !manip: the quoted packet's destination
            quoted = replace(quoted, dst=other.dst, **_ports(quoted, dport=other.dport))
            changed = replace(packet, quoted=quoted, src=other.dst)
        else:
            quoted = replace(quoted, src=other.src, sport_random=False, **_port_or_id(quoted, other.sport))
            changed = replace(packet, quoted=quoted, dst=other.src)
        kind = "snat" if source else "dnat"
        self.emit(skb.netns.name, Natted(kind, str(packet), str(changed), True, f"and in the quoted packet: {quoted}"))
        self.rewrite(skb, view, changed)
        return None

    def nat_target(
        self,
        skb: Skb,
        view: View,
        target: Dnat | Snat | Masquerade | Redirect | Netmap,
        hit: Callable[[str], None],
    ) -> Outcome | None:
        """What a NAT target does: nf_nat_setup_info with the range that the target names."""
        packet = view.packet
        where = skb.netns.name
        connection = skb.ct.connection if skb.ct is not None else None
        if connection is None:
            hit("no connection: nothing to translate")
            return None
        source = view.hook in (Hook.POSTROUTING, Hook.INPUT)
        limit = V4_ALL if packet.family == 4 else V6_ALL
        if isinstance(target, Netmap):
            old = packet.src if source else packet.dst
            new = Ip(packet.family, (old.value & ~target.mask & limit) | target.value)
            span = NatRange(new)
        elif isinstance(target, Masquerade):  # nf_nat_masquerade.c
            towards = skb.routed.via if skb.routed is not None and skb.routed.via is not None else packet.dst
            if packet.family == 4:
                address = select_source(skb.netns, view.outdev, towards, universe=True)
            else:
                address = select_source(skb.netns, view.outdev, packet.dst)
            if address is None:
                hit("masquerade: no address on " + view.outdev)
                return Outcome("dropped", "", where)
            span = replace(target.to, low=address)
            connection.masq_dev = view.outdev
        elif isinstance(target, Redirect):  # nf_nat_redirect.c
            if view.hook is Hook.OUTPUT:
                address = Ip(4, 0x7F000001) if packet.family == 4 else Ip(6, 1)
            else:
                device = skb.netns.devices.get(view.indev)
                own = [a.ip for a in device.addresses if a.ip.family == packet.family] if device else []
                if not own:
                    hit(f"redirect: no address on {view.indev}")
                    return Outcome("dropped", "", where)
                address = own[0]
            span = replace(target.to, low=address)
        else:
            span = target.to
        current = connection.reply.reversed()  # not the packet: that may be a reset made for it, on its way back
        address, port, random = self._pick(current, span, source)
        if source:
            new_flow = replace(current, src=address, **_tuple_port(packet, "sport", port))
            connection.src_done = True
            if random:
                new_flow = self._unused(skb, connection, new_flow)
            if new_flow != current or random:
                connection.snat = True
        else:
            new_flow = replace(current, dst=address, **_tuple_port(packet, "dport", port))
            connection.dst_done = True
            if new_flow != current or random:
                connection.dnat = True
        connection.reply = new_flow.reversed()
        connection.random_port = connection.random_port or random
        chosen = _socket(packet, address, "*" if random else port)
        verb = {Dnat: "dnat", Snat: "snat", Masquerade: "masquerade", Redirect: "redirect", Netmap: "netmap"}[type(target)]
        hit(f"{verb} to {chosen}")
        return None

    def _make_unique(self, skb: Skb, connection: Connection) -> None:
        """nf_nat_core.c get_unique_tuple: where another connection has the reply's tuple, a new source port (or id) is drawn."""
        if connection.confirmed or connection.reply.protocol not in (TCP, UDP, SCTP, ICMP, ICMPV6):
            return
        wanted = connection.reply.reversed()
        unused = self._unused(skb, connection, wanted)
        if unused != wanted:
            connection.reply = unused.reversed()
            connection.snat = connection.random_port = True

    def _unused(self, skb: Skb, connection: Connection, flow: Flow) -> Flow:
        """nf_nat_core.c nf_nat_used_tuple: the flow, or one with another source port (or id) where its reply is taken. Which one
        is chance in Linux; here it is the next, so that the connections of one packet on its laps are told apart."""
        table = self.connections.get(skb.netns.name, {})
        zone = _zone_id(connection.zone, connection.zone_direction, True)
        while any((zone, is_reply, flow.reversed()) in table for is_reply in (False, True)):
            flow = replace(flow, sport=flow.sport % 0xFFFF + 1)
        return flow

    def _pick(self, flow: Flow, span: NatRange, source: bool) -> tuple[Ip, int, bool]:
        """Address and port out of a range (nf_nat_core.c get_unique_tuple in a table without clashes).

        A source that is in the range already stays. Several addresses: the kernel hashes with a secret seed, so each is equally
        likely. Ports: the old one stays if it may; else one of the range is drawn. The third value says that the port (for
        ICMP, the id, whichever way it is translated) is one of too many to tell.
        """
        old_address, old_port = (flow.src, flow.sport) if source else (flow.dst, flow.dport)
        random_all = span.random or span.random_fully
        ports = flow.protocol in (TCP, UDP, SCTP)
        if source and not random_all and _in_range(span, old_address, old_port if ports else None):
            return old_address, old_port, False
        address = span.low if span.low is not None else old_address
        if span.low is not None and span.high is not None and span.high.value > span.low.value:
            count = span.high.value - span.low.value + 1
            label = f"NAT to one of {count} addresses"
            choice = self.chooser.choose([Fraction(1, count)] * count, label) if count <= 256 else 0
            address = Ip(span.low.family, span.low.value + choice)
        if flow.protocol in (ICMP, ICMPV6):
            return address, flow.sport, random_all
        if not ports:
            return address, 0, False
        if span.port_low is None:
            return address, old_port, source and random_all
        low = span.port_low
        high = span.port_high if span.port_high is not None else low
        if span.base_port is not None:  # NF_NAT_RANGE_PROTO_OFFSET
            return address, low + (old_port - span.base_port) % (high - low + 1), False
        if not random_all and low <= old_port <= high:
            return address, old_port, False
        if low == high:
            return address, low, False
        if high - low + 1 <= MAX_FORKED_PORTS:
            count = high - low + 1
            return address, low + self.chooser.choose([Fraction(1, count)] * count, f"NAT to one of {count} ports"), False
        return address, low, True


def attached(skb: Skb) -> CtView | None:
    """nf_ct_attach: a reset or ICMP error made for a packet belongs to its connection, in the other direction.

    So it is translated back even if the connection was never confirmed (nf_reject_ipv4.c nf_send_reset, icmp.c icmp_glue_bits).
    """
    if skb.ct is None or skb.ct.state is CtState.INVALID:
        return None
    if skb.ct.connection is None:  # untracked: the answer gets a state without a connection, and CT rules pass it over
        return CtView(CtState.INVALID)
    return CtView(CtState.RELATED, skb.ct.connection, not skb.ct.is_reply)


def _has_other_destination(ct: CtView) -> bool:
    """nf_nat_proto.c nf_nat_ipv4_local_fn: packets of a connection whose destination is translated are routed again, each."""
    connection = ct.connection
    if connection is None:
        return False
    there, back = connection.original, connection.reply
    return back.dst != there.src if ct.is_reply else there.dst != back.src


def _reroute(skb: Skb, before: Packet) -> None:
    """iptable_mangle.c ipt_mangle_out: a packet that table mangle changed is routed again; raw and filter do not ask for it."""
    packet = skb.packet
    if (packet.src, packet.dst, packet.mark, packet.ttl) != (before.src, before.dst, before.mark, before.ttl):
        skb.reroute = packet


def _is_expected(connection: Connection, packet: Packet) -> bool:
    """nf_conntrack_proto_tcp.c tcp_conntracks: after its SYN a client may say nothing but SYN (or RST) until it was answered.

    nf_conntrack_proto_sctp.c: a COOKIE-ECHO carries the tag that the INIT-ACK told; without that one it is INVALID.
    """
    if connection.seen_reply or connection.picked_up or packet.tcp_flags & RST:
        return True
    if packet.protocol == SCTP:
        return packet.tcp_flags & ACK == 0
    return packet.protocol != TCP or packet.tcp_flags & (SYN | ACK | FIN) == SYN


def _assure(connection: Connection, packet: Packet, is_reply: bool) -> None:
    """nf_conntrack_proto_tcp.c, nf_conntrack_proto_gre.c: when a connection that has seen a reply becomes ASSURED.

    SCTP: with the COOKIE-ACK (nf_conntrack_proto_sctp.c: the reply that makes it ESTABLISHED), the reply after a COOKIE-ECHO.
    TCP: with the ACK that ends the handshake; a connection picked up in its middle with any ACK. (UDP: after two seconds.)
    """
    if not connection.seen_reply:
        return
    if packet.protocol == TCP:
        plain = packet.tcp_flags & (SYN | ACK | FIN | RST) == ACK
        connection.assured |= plain and (not is_reply or connection.picked_up)
    elif packet.protocol == SCTP:
        connection.cookie |= not is_reply and bool(packet.tcp_flags & ACK)
        connection.assured |= is_reply and connection.cookie
    elif packet.protocol == _GRE:
        connection.assured = True


def _template(family: int) -> CtView:
    """What `-j CT` attaches to a packet until connection tracking looks at it: an empty connection (nf_ct_tmpl_alloc)."""
    nothing = Flow(0, Ip(family, 0), 0, Ip(family, 0), 0)
    return CtView(CtState.NEW, Connection(nothing, nothing, confirmed=True))


def _zone_id(zone: int, direction: str, is_reply: bool) -> int:
    """nf_conntrack_zones.h nf_ct_zone_id: a zone for one direction leaves the other in zone 0."""
    return zone if direction in ("", "reply" if is_reply else "orig") else 0


def _find(
    table: dict[ZonedTuple, tuple[Connection, bool]], skb: Skb, flow: Flow
) -> tuple[Connection, bool] | None:
    """nf_conntrack_core.c __nf_conntrack_find_get: by tuple, where the zones of that direction are the same."""
    for is_reply in (False, True):
        found = table.get((_zone_id(skb.zone, skb.zone_direction, is_reply), is_reply, flow))
        if found is not None:
            return found
    return None


def _in_range(span: NatRange, address: Ip, port: int | None) -> bool:
    """nf_nat_core.c nf_in_range; `port` None where the protocol has none."""
    if span.low is not None and not span.low.value <= address.value <= (span.high or span.low).value:
        return False
    return port is None or span.port_low is None or span.port_low <= port <= (span.port_high or span.port_low)


def _may_open(packet: Packet) -> bool:
    """May this packet open a connection? (nf_conntrack_proto_{tcp,icmp,sctp}.c; nf_conntrack_tcp_loose is 1 by default)"""
    if packet.protocol == TCP:
        flags = packet.tcp_flags & (SYN | ACK | FIN | RST)
        return flags in (SYN, ACK)
    if packet.protocol in (ICMP, ICMPV6):
        return packet.icmp_type in _ICMP_REQUESTS[packet.protocol]
    if packet.protocol == SCTP:
        return packet.tcp_flags & ACK == 0  # INIT; an INIT-ACK carries ACK here
    return True


def _tuple_port(packet: Packet, side: str, port: int) -> dict[str, int]:
    return {side: port} if packet.protocol in (TCP, UDP, SCTP) else {}


def _port_or_id(packet: Packet, number: int) -> dict[str, int]:
    """What a tuple calls the source port."""
    return {"icmp_id": number} if packet.protocol in (ICMP, ICMPV6) else _ports(packet, sport=number)


def _ports(packet: Packet, **ports: int) -> dict[str, int]:
    return ports if packet.protocol in (TCP, UDP, SCTP) else {}


def _with_source(packet: Packet, target: Flow) -> Packet:
    if packet.protocol in (TCP, UDP, SCTP):
        return replace(packet, src=target.src, sport=target.sport)
    return replace(packet, src=target.src, **_port_or_id(packet, target.sport))


def _with_destination(packet: Packet, target: Flow) -> Packet:
    if packet.protocol in (TCP, UDP, SCTP):
        return replace(packet, dst=target.dst, dport=target.dport)
    if packet.protocol in (ICMP, ICMPV6):  # icmp_manip_pkt: the id is the tuple's, whichever side is translated
        return replace(packet, dst=target.dst, icmp_id=target.sport)
    return replace(packet, dst=target.dst)


def _flow(packet: Packet) -> Flow:
    return packet.flow


def _star(packet: Packet) -> str:
    if packet.sport_random:
        return f"{_socket(packet, packet.src, '*')} > {_socket(packet, packet.dst, packet.dport)}"
    return str(packet.flow)


def _socket(packet: Packet, address: Ip, port: int | str) -> str:
    if packet.protocol not in (TCP, UDP, SCTP):
        return str(address)
    return f"{address}:{port}" if address.family == 4 else f"[{address}]:{port}"
