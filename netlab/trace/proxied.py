"""Two connections: what kube-proxy's userspace mode does with a request that has reached its socket.

    client --1st connection--> socket of kube-proxy      TCP: the 1st is open before kube-proxy knows of it (listen(2))
                               |
                               +--2nd connection--> endpoint, the next in turn; up to four are tried

Law: the walk of every packet of both connections, in the order in which they are sent; each is an ordinary walk. Delivered is
what an endpoint has got and whose answer reaches the client. A connection that kube-proxy opens and closes again is rejected: the
client is told. What kube-proxy does is that of v1.25 (pkg/proxy/userspace/proxysocket.go, roundrobin.go); not modelled: that
it cuts datagrams at 4096 bytes, and what other clients do to its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from msgspec.structs import replace

from netlab.linux.addr import Ip
from netlab.linux.netns import Netns, ProxySocket
from netlab.linux.packet import ACK, FIN, SYN, TCP, Packet
from netlab.trace.skb import Outcome, socket_text
from netlab.trace.steps import Dropped, Hop, Proxied, Rejected, Reply, Verdict
from netlab.trace.walker import Expected, Walk, reply_to

DIAL_TIMEOUTS = (250, 500, 1000, 2000)  # ms; proxysocket.go EndpointDialTimeouts: as many endpoints are tried
SILENCE = "no answer"  # how the note begins that tells of an endpoint which said nothing in time
SECOND_PORT = 40000  # any ephemeral port; each attempt has its own
_SYN_LENGTH, _ACK_LENGTH = 60, 52  # bytes of an IPv4 packet, with TCP's options


@dataclass
class Spoken:
    """What came of it. `counted` are the hops of all packets, also of those that a trace passes over in silence."""

    verdict: Verdict
    reason: str | None
    hops: tuple[Hop, ...]
    reply: Reply | None = None
    endpoint: str | None = None
    endpoint_name: str | None = None
    source_seen: str | None = None
    counted: list[Hop] = field(default_factory=list)


def joined(*parts: Sequence[Hop]) -> tuple[Hop, ...]:
    """Hops one after another; what goes on in the namespace where the last one ended is one hop."""
    found: list[Hop] = []
    for hop in (hop for part in parts for hop in part):
        if found and found[-1].where == hop.where:
            found[-1] = Hop(hop.where, hop.kind, (*found[-1].steps, *hop.steps))
        else:
            found.append(hop)
    return tuple(found)


def speak(walk: Walk, home: Netns, sent: Packet, first: Outcome, hops: tuple[Hop, ...]) -> Spoken:
    """Go on where the request has reached a socket of kube-proxy's.

    Parameters
    ----------
    walk : Walk
        It has walked the request, and waits for an answer to it.
    home : Netns
        Where the request came from.
    sent : Packet
        The request as its sender made it.
    first : Outcome
        Of the request: its `proxy` is set.
    hops : tuple of Hop
        The request's way to kube-proxy.
    """
    return _Proxy(walk, home, sent, first, hops).speak()


class _Proxy:
    """Both connections of one request, and what their packets passed."""

    def __init__(self, walk: Walk, home: Netns, sent: Packet, first: Outcome, hops: tuple[Hop, ...]) -> None:
        assert first.packet is not None
        assert first.proxy is not None
        assert walk.expected is not None
        self.walk, self.home, self.sent, self.hops = walk, home, sent, hops
        self.node = walk.network.namespaces[first.netns]
        self.received, self.owner, self.proxy = first.packet, first.owner, first.proxy
        self.client = walk.expected
        self.counted = list(hops)

    def speak(self) -> Spoken:
        return self._tcp() if self.received.protocol == TCP else self._datagram()

    def _take(self) -> tuple[Hop, ...]:
        hops = self.walk.take_hops()
        self.counted += hops
        return hops

    def _end(self, verdict: Verdict, reason: str | None, reply: Reply | None = None) -> Spoken:
        return Spoken(verdict, reason, self.hops, reply, counted=self.counted)

    def _died(self, said: Outcome, before: str, reply: Reply | None = None) -> Spoken:
        """`before` says what did arrive; then something died, or depends on what is not known."""
        if said.kind == "unknown":
            return self._end(Verdict.UNKNOWN, f"{before}; what follows depends on {said.reason}", reply)
        return self._end(Verdict.DROPPED, f"{before}, but {said.reason}", reply)

    def _reached_proxy(self, ended: Spoken) -> Spoken:
        """The request ended at kube-proxy's own socket."""
        ended.endpoint, ended.endpoint_name = socket_text(self.received.dst, self.received.dport), self.owner
        ended.source_seen = str(self.received.src)
        return ended

    def _backends(self, proxy: ProxySocket) -> list[tuple[int, Ip, int]]:
        """(number, address, port) in the order in which they are tried: round, from wherever the turn is now."""
        n = len(proxy.backends)
        start = 0
        if n > 1:
            label = f"kube-proxy's round robin over {n} endpoints of {proxy.service}"
            names = [f"{label}: {socket_text(*backend)}" for backend in proxy.backends]
            start = self.walk.chooser.choose([Fraction(1, n)] * n, label, names)
        turns = [(start + k) % n for k in range(len(DIAL_TIMEOUTS))] if n else []
        return [(turn + 1, *proxy.backends[turn]) for turn in turns]

    def _second(self, attempt: int, number: int, address: Ip, port: int) -> Outcome:
        """Send the first packet of the second connection."""
        tcp, n = self.received.protocol == TCP, len(self.proxy.backends)
        self.step = Proxied(
            service=self.proxy.service,
            backend=socket_text(address, port),
            attempt=attempt,
            number=number,
            of=n,
            protocol="TCP" if tcp else "UDP",
        )
        self.walk.emit(self.node.name, self.step)
        same = address.family == self.received.family
        packet = Packet(
            src=Ip(address.family, 0),
            dst=address,
            protocol=self.received.protocol,
            sport=SECOND_PORT + attempt,
            dport=port,
            sport_random=True,
            tcp_flags=SYN if tcp else 0,
            length=_SYN_LENGTH if tcp or not same else self.received.length,
            df=tcp,  # a datagram of a connected socket is cut where it is too long (IP_PMTUDISC_WANT)
        )
        self.second = packet
        self.walk.expected = Expected(self.node.name, packet.flow, self.owner)
        return self.walk.local_out(self.node, packet, self.owner)

    # -- UDP -----------------------------------------------------------------------------------------------------------

    def _datagram(self) -> Spoken:
        """proxysocket.go udpProxySocket: a connected socket per client; nobody is told of what goes wrong."""
        if not self.proxy.accepts:
            return self._reached_proxy(self._silent(self._held("datagrams are never read")))
        if not self.proxy.backends:
            return self._silent(f"kube-proxy has no endpoint for {self.proxy.service}: it drops the datagram")
        for attempt, (number, address, port) in enumerate(self._backends(self.proxy), 1):
            out = self._second(attempt, number, address, port)
            if out.kind == "rejected" and out.answer is None:  # connect(2) fails: no route
                self._note(f"{out.reason}: kube-proxy tries the next endpoint")
                continue
            self.hops = joined(self.hops, self._take())
            return self._answer(out)
        return self._silent(f"kube-proxy finds no way to an endpoint of {self.proxy.service}: it drops the datagram")

    def _answer(self, out: Outcome) -> Spoken:
        """The endpoint's answer to kube-proxy, and kube-proxy's to the client."""
        if out.kind == "unknown":
            return self._end(Verdict.UNKNOWN, out.reason)
        if out.kind != "delivered" or out.packet is None:
            if out.answer is not None:
                self.walk.send_answer(out)
                self._take()
            return self._end(Verdict.DROPPED, f"{out.reason}; the client is not told of what kube-proxy's second socket hears")
        endpoint = self.walk.network.namespaces[out.netns]
        back = self.walk.local_out(endpoint, reply_to(out.packet), out.owner)
        hops = self._take()
        if back.kind != "delivered" or back.is_answer:
            if back.answer is not None:
                self.walk.send_answer(back)
                self._take()
            reply = Reply("reply", False, hops, back.reason)
            return self._arrived(self._died(back, "the request arrives; the reply dies on its way to kube-proxy", reply), out)
        self.walk.emit(self.node.name, replace(self.step, back=True))  # WriteTo: the kernel chooses the source
        self.walk.expected = self.client
        answer = replace(reply_to(self.received), src=Ip(self.received.family, 0), length=self.received.length)
        last = self.walk.local_out(self.node, answer, self.owner)
        way = joined(hops, self._take())
        if last.kind == "delivered" and not last.is_answer:
            return self._arrived(self._end(Verdict.DELIVERED, None, Reply("reply", True, way)), out)
        if last.answer is not None:
            self.walk.send_answer(last)
            self._take()
        reply = Reply("reply", False, way, last.reason)
        return self._arrived(self._died(last, "the request arrives, and kube-proxy has the reply", reply), out)

    def _silent(self, reason: str, reply: Reply | None = None) -> Spoken:
        """kube-proxy has the request, and nobody is told what became of it."""
        self.walk.emit(self.node.name, Dropped(reason))
        self.hops = joined(self.hops, self._take())
        return self._end(Verdict.DROPPED, f"{reason} (on {self.node.name})", reply)

    def _note(self, text: str) -> None:
        self.walk.note(self.node.name, text)
        self.hops = joined(self.hops, self._take())

    def _held(self, what: str) -> str:
        return f"kube-proxy only holds port {self.received.dport} for {self.proxy.service}: {what}"

    def _arrived(self, ended: Spoken, out: Outcome) -> Spoken:
        """The request has reached an endpoint."""
        assert out.packet is not None
        ended.endpoint, ended.endpoint_name = socket_text(out.packet.dst, out.packet.dport), out.owner
        ended.source_seen = str(out.packet.src)
        return ended

    # -- TCP -----------------------------------------------------------------------------------------------------------

    def _tcp(self) -> Spoken:
        """proxysocket.go tcpProxySocket: the kernel opens the first connection, kube-proxy accepts it and dials."""
        back = self.walk.local_out(self.node, reply_to(self.received), self.owner)
        opened = self._take()
        if back.kind != "delivered" or back.is_answer or back.packet is None:
            if back.answer is not None:
                self.walk.send_answer(back)
                self._take()
            reply = Reply("reply", False, opened, back.reason)
            return self._reached_proxy(self._died(back, "the request arrives at kube-proxy; the reply dies", reply))
        third, hops = self._third(self.home, self.sent, self.received, back.packet, self.node)
        if third.kind != "delivered" or third.is_answer:
            reply = Reply("reply", False, joined(opened, hops), third.reason, handshake=True)
            return self._reached_proxy(self._died(third, "the request and kube-proxy's reply arrive", reply))
        if not self.proxy.accepts:
            reply = Reply("reply", True, opened)
            return self._reached_proxy(self._silent(self._held("the connection opens, and is never accepted"), reply))
        why = f"kube-proxy has no endpoint for {self.proxy.service}"
        for attempt, (number, address, port) in enumerate(self._backends(self.proxy), 1):
            out = self._second(attempt, number, address, port)
            self.hops = joined(self.hops, self._take())
            if out.kind == "unknown":
                return self._end(Verdict.UNKNOWN, out.reason)
            ended, why = self._dialled(out, attempt, opened)
            if ended is not None:
                return ended
            more = attempt < len(DIAL_TIMEOUTS)
            self._note(f"{why}: kube-proxy {'tries the next endpoint in turn' if more else 'gives up'}")
        return self._close(why)

    def _dialled(self, out: Outcome, attempt: int, opened: tuple[Hop, ...]) -> tuple[Spoken | None, str]:
        """What came of the second connection's SYN: the end of the story, or why there is no connection."""
        silence = f"{SILENCE} within {DIAL_TIMEOUTS[attempt - 1]} ms"
        if out.kind != "delivered" or out.packet is None:
            if out.answer is None:
                return None, out.reason if out.kind == "rejected" else f"{silence} ({out.reason})"
            told = self.walk.send_answer(out)
            self._take()
            if told.kind == "unknown":
                return self._end(Verdict.UNKNOWN, f"whether kube-proxy hears of it depends on {told.reason}"), ""
            # three unanswered questions for a neighbour take 3 s, longer than any dial (arp_solicit)
            heard = told.kind == "delivered" and not out.reason.startswith("nobody on")
            return None, out.reason if heard else f"{silence} ({out.reason})"
        endpoint = self.walk.network.namespaces[out.netns]
        back = self.walk.local_out(endpoint, reply_to(out.packet), out.owner)
        hops = self._take()
        if back.kind == "unknown":
            return self._arrived(self._died(back, "the request arrives"), out), ""
        if back.kind != "delivered" or back.is_answer or back.packet is None:
            if back.answer is not None:
                self.walk.send_answer(back)
                self._take()
            return None, f"{silence} (the endpoint's reply dies: {back.reason})"
        third, rest = self._third(self.node, self.second, out.packet, back.packet, endpoint)
        copied = Hop(self.node.name, self.node.kind.value, (replace(self.step, back=True),))
        if third.kind == "delivered" and not third.is_answer:
            reply = Reply("reply", True, joined(hops, [copied], opened))
            return self._arrived(self._end(Verdict.DELIVERED, None, reply), out), ""
        reply = Reply("reply", False, joined(hops, rest), third.reason, handshake=True)
        return self._arrived(self._died(third, "the second connection opens; nothing that follows arrives", reply), out), ""

    def _third(self, home: Netns, syn: Packet, received: Packet, answer: Packet, there: Netns) -> tuple[Outcome, tuple[Hop, ...]]:
        """The ACK that ends a handshake, from `home` to the socket in `there` that `received` reached."""
        self.walk.expected = Expected(there.name, received.flow.reversed(), self.owner)
        third = replace(syn, src=answer.dst, tcp_flags=ACK, length=_ACK_LENGTH)
        out = self.walk.local_out(home, third, home.name)
        return out, self._take()

    def _close(self, why: str) -> Spoken:
        """close(2) of the first connection: a FIN, which the client's kernel acknowledges."""
        reason = f"{why}: kube-proxy accepts the connection and closes it again (on {self.node.name})"
        self.walk.expected = self.client
        received = self.received
        fin = replace(reply_to(received), tcp_flags=FIN | ACK, length=_ACK_LENGTH)
        self.walk.emit(self.node.name, Rejected(f"{why}: kube-proxy closes the connection that it has accepted", "TCP FIN"))
        self.hops = joined(self.hops, self._take())
        out = self.walk.local_out(self.node, fin, self.owner)
        hops = self._take()
        if out.kind == "delivered" and not out.is_answer and out.packet is not None:
            self._third(self.home, self.sent, received, out.packet, self.node)
            return self._end(Verdict.REJECTED, reason, Reply("error", True, hops))
        return self._died(out, reason, Reply("error", False, hops, out.reason))
