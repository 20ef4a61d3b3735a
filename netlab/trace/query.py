"""From a question ("can web-0 reach svc/api:80?") to a Trace: resolve both ends, walk every branch there and back, judge.

Law: the reply counts (a delivered request whose answer does not come home is a drop); what was assumed and what is not
modelled is listed; the answer is a function of cluster, observed dumps and request, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cached_property

import msgspec
from msgspec.structs import replace

from netlab.dataplane.build import DEFAULT_CLIENTS, INTERNET, Built, build, entry_addresses, with_internet
from netlab.dataplane.policy.index import PolicyIndex
from netlab.errors import InputError, did_you_mean
from netlab.kube.cluster import Cluster
from netlab.kube.names import EndpointName, Workload, container_port, parse_endpoint, resolve, service_port
from netlab.kube.objects import Node, Pod, Service, ServicePort
from netlab.linux.addr import Ip, Prefix, host_prefix, mask_of
from netlab.linux.bridge import Links
from netlab.linux.netns import Netns
from netlab.linux.network import Network
from netlab.linux.packet import (
    ACK,
    ECHO_REQUEST,
    ICMP,
    ICMPV6,
    PROTOCOL_NUMBERS,
    SCTP,
    SYN,
    TCP,
    V6_ECHO_REQUEST,
    Packet,
    protocol_name,
)
from netlab.trace.choices import Chooser, TooManyChoices, Weighted, explore
from netlab.trace.policysteps import Asked, dialect_of, with_policies
from netlab.trace.proxied import speak
from netlab.trace.skb import socket_text
from netlab.trace.steps import Branch, Hop, Party, Rejected, Reply, Trace, UnknownStep, Verdict
from netlab.trace.walker import Expected, Walk, reply_to

EPHEMERAL_PORT = 32768  # the first of net.ipv4.ip_local_port_range's default
_LENGTHS = {TCP: 60, ICMP: 84, ICMPV6: 104}  # bytes: a SYN with options, a ping as ping(8) sends it
_OTHER_LENGTH = 60
_ACK_LENGTH = 52  # IPv4, with the timestamps option
EXTERNAL = "external/"


class Request(msgspec.Struct, frozen=True):
    """What is asked.

    `protocol` None: the service port's own, else TCP. `at`: the node where a packet from outside comes in. `family` 4 or 6
    (None: the destination's first). `size`: bytes of the IP packet.
    """

    source: str
    destination: str
    protocol: str | None = None
    namespace: str = "default"
    at: str | None = None
    family: int | None = None
    size: int | None = None


class Probe(msgspec.Struct, frozen=True):
    """A packet to send: destination address and port, and how likely the client takes it (headless services: DNS decides)."""

    dst: Ip
    port: int
    weight: Fraction = Fraction(1)
    label: str = ""
    not_modelled: str = ""  # what stands at this address that netlab does not model
    unnamed: str = ""  # why DNS gives the client no address, so that no packet is sent


class Leaf(msgspec.Struct):
    """The outcome of one run."""

    verdict: Verdict
    reason: str | None
    hops: tuple[Hop, ...]
    endpoint: str | None = None
    endpoint_name: str | None = None
    source_seen: str | None = None
    reply: Reply | None = None
    choices: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """A resolved sender: its namespace, whose socket it is, the address it must use (None: the kernel chooses)."""

    party: Party
    netns: str
    owner: str
    ip: Ip | None = None
    families: tuple[int, ...] = (4,)
    pod: Pod | None = None
    external: bool = False


class Tracer:
    """A cluster that can be asked. Built once; dumps of nodes (`observed`: node -> directory) replace what was compiled."""

    def __init__(self, cluster: Cluster, observed: Mapping[str, str] | None = None) -> None:
        self.cluster = cluster
        self._built = build(cluster)
        self._observed: tuple[str, ...] = ()  # what was assumed while reading dumps
        network = self._built.network
        if observed:
            from netlab.dataplane.observed import apply_observed

            for node, directory in observed.items():
                applied = apply_observed(network, node, directory)
                network = applied.network
                self._observed += applied.assumptions
        self.network = network
        self._networks: dict[tuple[tuple[Ip, ...], str | None], tuple[Network, Links, Built]] = {}
        self._pods_by_ip = {a: p for p in cluster.pods.values() if not p.host_network for a in p.ips}
        self._nodes_by_ip = {a: n for n in cluster.nodes.values() for a in (*n.internal_ips, *n.external_ips)}

    def _network(self, hosts: tuple[Ip, ...], at: str | None) -> tuple[Network, Links, Built]:
        """The network with the outside as this question needs it."""
        key = (hosts, at)
        if key not in self._networks:
            if not hosts and at is None:
                built, network = self._built, self.network
            else:
                built = build(self.cluster, extra_hosts=hosts, at=at)
                network = with_internet(self.network, built.network.namespaces[INTERNET])
            self._networks[key] = (network, Links(network), built)
        return self._networks[key]

    @cached_property
    def policies(self) -> PolicyIndex:
        """The cluster's network policies, for the engine in force."""
        addresses = {
            address.ip: name
            for name in self.cluster.nodes
            for device in self.network.namespaces[name].devices.values()
            for address in device.addresses
            if not address.ip.is_loopback
        }
        return PolicyIndex(self.cluster, dialect_of(self.cluster.cni.name), addresses)

    @property
    def standing(self) -> tuple[str, ...]:
        """What every trace assumes, whatever is asked."""
        return (*self.cluster.assumptions, *self._built.assumptions, *self._observed, *self.policies.notes)

    def trace(self, request: Request) -> Trace:
        """Answer one question.

        Raises
        ------
        InputError
            Names that do not exist, ports that a service does not have, pods without address, a protocol that is none.
        """
        return self.traced(request)[0]

    def traced(self, request: Request) -> tuple[Trace, Network]:
        """The answer to a question, and the network that was walked for it: with the hosts outside that it names."""
        protocol = _protocol(request.protocol)
        assumptions: list[str] = []
        if request.at is not None and request.at not in self.cluster.nodes:
            raise InputError(f'unknown node "{request.at}"', hint=did_you_mean(request.at, self.cluster.nodes))
        source_name = self._parse(request.source)
        destination_name = self._parse(request.destination)
        source = self._source(source_name, request, assumptions)
        if request.at is not None and not source.external:
            raise InputError(
                f'--at {request.at} says where a packet from outside comes in, but "{request.source}" is inside the cluster',
                hint="leave --at out, or trace from internet",
            )
        party, probes, protocol = self._destination(destination_name, request, source, protocol, assumptions)
        hosts = tuple(
            dict.fromkeys(
                a
                for a in (*([source.ip] if source.external and source.ip is not None else []), *self._outside(probes))
                if a not in DEFAULT_CLIENTS and self._is_elsewhere(a)
            )
        )
        network, links, built = self._network(hosts, request.at)
        sport = source_name.port if isinstance(source_name.port, int) else EPHEMERAL_PORT

        def run(chooser: Chooser) -> Leaf:
            return _walk(network, links, source, probes, protocol, sport, request.size, chooser)

        try:
            found = explore(run, lambda leaf: (leaf.verdict, leaf.endpoint, leaf.source_seen), _made_unknown)
        except TooManyChoices as error:
            leaf = Leaf(Verdict.UNKNOWN, str(error), (Hop(source.netns, "node", (UnknownStep(str(error)),)),))
            found = [_whole(leaf)]
        branches = tuple(
            Branch(
                probability=w.probability,
                verdict=w.outcome.verdict,
                endpoint=w.outcome.endpoint,
                endpoint_name=w.outcome.endpoint_name,
                source_seen=w.outcome.source_seen,
                reason=w.outcome.reason,
                hops=w.outcome.hops,
                reply=w.outcome.reply,
                choices=w.outcome.choices,
            )
            for w in sorted(found, key=lambda w: (-w.probability, w.outcome.endpoint or "~", w.outcome.choices))
        )
        several = party.name if len({b.endpoint for b in branches}) > 1 else ""
        branches = with_policies(branches, self.policies, self.cluster.cni.name, Asked(protocol, source.pod, several))
        notes = self.policies.notes
        made = dict.fromkeys([*self.cluster.assumptions, *built.assumptions, *self._observed, *notes, *assumptions])
        for weighted in found:
            made.update(dict.fromkeys(weighted.outcome.assumptions))
        answer = Trace(
            source=source.party,
            destination=party,
            protocol=protocol_name(protocol).upper(),
            verdict=overall(branch.verdict for branch in branches),
            branches=branches,
            assumptions=tuple(made),
            not_modelled=built.not_modelled,
        )
        return answer, network

    # -- both ends -----------------------------------------------------------------------------------------------------

    def _parse(self, text: str) -> EndpointName:
        """An endpoint as typed; `external/ADDRESS` insists that a private address is a host outside the cluster."""
        if text.startswith(EXTERNAL):
            name = parse_endpoint(text.removeprefix(EXTERNAL))
            if name.ip is None or not self._is_elsewhere(name.ip) or self._network_of(name.ip) is not None:
                raise InputError(f'"{text}" is not an address outside the cluster')
            return name
        name = parse_endpoint(text)
        address = name.ip
        if address is not None and address.is_private and self._network_of(address) is None and self._is_elsewhere(address):
            known = ", ".join(map(str, self._known_networks))
            raise InputError(
                f"{address} is in none of the cluster's networks ({known})",
                hint=f"a host outside the cluster is written {EXTERNAL}{text}",
            )
        return name

    @cached_property
    def _known_networks(self) -> list[Prefix]:
        """The cluster's networks, and those that the nodes' own devices are in; none that lies inside another."""
        cluster = self.cluster
        every = dict.fromkeys([*cluster.pod_cidrs, *cluster.service_cidrs, *cluster.fabric.prefixes])
        blocks = [cidr for node in cluster.nodes.values() for cidr in node.pod_cidrs]
        for name in cluster.nodes:
            for device in self.network.namespaces[name].devices.values():
                blocks += [
                    Prefix(a.ip.family, a.ip.value & mask_of(a.ip.family, a.length), a.length)
                    for a in device.addresses
                    if a.scope == "global"
                ]
        for block in sorted(dict.fromkeys(blocks), key=lambda b: b.length):
            if not any(block.address in wider and wider.length <= block.length for wider in every):
                every[block] = None
        return list(every)

    def _network_of(self, address: Ip) -> Prefix | None:
        """The network of the cluster that an address lies in; services and endpoints outside of all are networks of one."""
        for prefix in self._known_networks:
            if address in prefix:
                return prefix
        for service in self.cluster.services.values():
            if address in service.cluster_ips or address in entry_addresses(service):
                return host_prefix(address)
        for slices in self.cluster.slices.values():
            if any(address in endpoint.addresses for part in slices for endpoint in part.endpoints):
                return host_prefix(address)
        return None

    def _is_elsewhere(self, address: Ip) -> bool:
        return address not in self._pods_by_ip and address not in self._nodes_by_ip

    def _outside(self, probes: list[Probe]) -> list[Ip]:
        """Destinations that are hosts outside; an address in a network of the cluster that nobody has stays nobody's."""
        return [p.dst for p in probes if not p.unnamed and self._network_of(p.dst) is None]

    def _source(self, name: EndpointName, request: Request, assumptions: list[str]) -> Source:
        found = resolve(self.cluster, name, request.namespace, "source")
        text = request.source
        if isinstance(found, Workload):
            assumptions.append(f"source {text}: its pod {found.pods[0].key} was taken (of {len(found.pods)})")
            return self._pod_source(text, found.pods[0])
        if isinstance(found, Service):
            pods = [p for p in self._endpoint_pods(found) if p.ips]
            if not pods:
                raise InputError(f'"{text}" as a source means one of its pods, and service {found.key} has none')
            assumptions.append(f"source {text}: pod {pods[0].key}, one of its {len(pods)} endpoints, was taken")
            return self._pod_source(text, pods[0])
        if isinstance(found, Pod):
            return self._pod_source(text, found)
        if isinstance(found, Node):
            return self._node_source(text, found)
        if isinstance(found, Ip):
            if found in self._pods_by_ip:
                return replace(self._pod_source(text, self._pods_by_ip[found]), ip=found, families=(found.family,))
            if found in self._nodes_by_ip:
                return replace(self._node_source(text, self._nodes_by_ip[found]), ip=found, families=(found.family,))
            for service in self.cluster.services.values():
                if found in service.cluster_ips:
                    raise InputError(f"{found} is the ClusterIP of service {service.key}: packets go to it, none come from it")
            for cidr in (*self.cluster.pod_cidrs, *(c for n in self.cluster.nodes.values() for c in n.pod_cidrs)):
                if found in cidr:
                    raise InputError(f"{found} is in the pod network {cidr}, but no pod has it")
            if _is_nowhere(found):
                raise InputError(f"no packet comes from {found}", hint="name a pod, a node, internet or a unicast address")
            party = Party(text, str(found), "external", str(found), where=INTERNET)
            return Source(party, INTERNET, f"external client {found}", found, (found.family,), external=True)
        client = next((c for c in DEFAULT_CLIENTS if request.family in (None, c.family)), DEFAULT_CLIENTS[0])
        party = Party(text, "internet", "external", str(client), where=INTERNET)
        return Source(party, INTERNET, f"external client {client}", client, (4, 6), external=True)

    def _pod_source(self, text: str, pod: Pod) -> Source:
        where = pod.node_name if pod.host_network else pod.key
        if where not in self.network.namespaces:
            raise InputError(f"pod {pod.key} runs on node {pod.node_name or '(none)'}, which is not among the input", pod.ref)
        families = tuple(dict.fromkeys(a.family for a in pod.ips))
        party = Party(text, pod.key, "hostNetwork pod" if pod.host_network else "pod", str(pod.ips[0]), where=where)
        return Source(party, where, f"pod {pod.key}", None, families, pod)

    def _node_source(self, text: str, node: Node) -> Source:
        families = tuple(dict.fromkeys(a.family for a in node.internal_ips))
        party = Party(text, node.name, "node", str(node.internal_ips[0]), where=node.name)
        return Source(party, node.name, f"node {node.name}", None, families)

    def _endpoint_pods(self, service: Service) -> list[Pod]:
        keys = [e.target_pod for s in self.cluster.slices.get(service.key, ()) for e in s.endpoints if e.target_pod]
        return [self.cluster.pods[key] for key in dict.fromkeys(keys) if key in self.cluster.pods]

    def _destination(
        self, name: EndpointName, request: Request, source: Source, protocol: int | None, assumptions: list[str]
    ) -> tuple[Party, list[Probe], int]:
        found = resolve(self.cluster, name, request.namespace, "destination")
        text = request.destination
        if isinstance(found, Service):
            return self._to_service(text, found, name, request, source, protocol, assumptions)
        if isinstance(found, Workload):
            assumptions.append(f"destination {text}: its pod {found.pods[0].key} was taken (of {len(found.pods)})")
            found = found.pods[0]
        if isinstance(found, Pod):
            address = _pick(found.ips, request, source, f"pod {found.key}")
            port, protocol = _pod_port(found, name.port, protocol, text)
            kind = "hostNetwork pod" if found.host_network else "pod"
            where = found.node_name if found.host_network else found.key
            return Party(text, found.key, kind, str(address), port or None, where), [Probe(address, port)], protocol
        protocol = protocol if protocol is not None else TCP
        if isinstance(found, Node):
            address = _pick(found.internal_ips, request, source, f"node {found.name}")
            port = _number(name.port, protocol, text)
            party = Party(text, found.name, "node", str(address), port or None, found.name)
            return party, [Probe(address, port)], _for_family(protocol, address)
        address = found if isinstance(found, Ip) else _pick(DEFAULT_CLIENTS, request, source, "internet")
        if _is_nowhere(address):
            raise InputError(f"{address} is the address of nobody", hint="name a pod, a service, a node or a unicast address")
        if request.family not in (None, address.family):
            raise InputError(f"{address} is not an IPv{request.family} address")
        if address.family not in source.families:
            raise InputError(f"{source.party.name} has no IPv{address.family} address to send to {address} from")
        port = _number(name.port, protocol, text)
        kind, who, where = self._who_has(address, port)
        beyond = self._not_modelled_at(address)
        if kind == "service address" and source.external and request.at is None:
            assumptions.append(self._enters(address, who))
        party = Party(text, who, kind, str(address), port or None, where)
        return party, [Probe(address, port, not_modelled=beyond)], _for_family(protocol, address)

    def _not_modelled_at(self, address: Ip) -> str:
        """What answers an address outside the cluster on its behalf: a cloud's translation, a load balancer's own connections."""
        for node in self.cluster.nodes.values():
            if address in node.external_ips and address not in node.internal_ips:
                return f"ExternalIP {address} of node {node.name}: it is translated outside the cluster"
        for service in self.cluster.services.values():
            if any(e.ip == address and e.ip_mode != "VIP" for e in service.load_balancer):
                return f"load balancer {address} of service {service.key} has ipMode Proxy: it makes connections of its own"
        return ""

    def _enters(self, address: Ip, service: str) -> str:
        return f"from outside, {address} of service {service} leads to node {next(iter(self.cluster.nodes))} (choose with --at)"

    def _who_has(self, address: Ip, port: int) -> tuple[str, str, str]:
        """Kind, name and namespace; of several services that claim an address the first by name that has the port."""
        pod = self._pods_by_ip.get(address)
        if pod is not None:
            return "pod", pod.key, pod.key
        node = self._nodes_by_ip.get(address)
        if node is not None:
            return "node", node.name, node.name
        services = self.cluster.services.values()
        claim = [s for s in services if address in s.cluster_ips or address in entry_addresses(s)]
        if not claim:
            return "address", str(address), ""
        first = min(claim, key=lambda s: (all(p.port != port for p in s.ports), s.key))
        return "ClusterIP" if address in first.cluster_ips else "service address", first.key, ""

    def _to_service(
        self,
        text: str,
        service: Service,
        name: EndpointName,
        request: Request,
        source: Source,
        protocol: int | None,
        assumptions: list[str],
    ) -> tuple[Party, list[Probe], int]:
        if service.type == "ExternalName":
            raise InputError(
                f"service {service.key} is an ExternalName: DNS answers with the name {service.external_name}, not an address",
                service.ref,
                "trace to the address that this name has",
            )
        if protocol in (ICMP, ICMPV6):
            address = _pick(service.cluster_ips, request, source, f"service {service.key}")
            return Party(text, service.key, "service", str(address)), [Probe(address, 0)], _for_family(ICMP, address)
        port = service_port(service, name.port, None if protocol is None else protocol_name(protocol).upper())
        number = PROTOCOL_NUMBERS[port.protocol.lower()]
        same = [p.protocol for p in service.ports if p.port == port.port]
        if protocol is None and isinstance(name.port, int) and len(same) > 1:
            others = " or ".join(f"--proto {p.lower()}" for p in same if p != port.protocol)
            which = f"service {service.key} has port {port.port} for {' and '.join(same)}"
            assumptions.append(f"{which}: {port.protocol} was taken (choose with {others})")
        if service.headless:
            return self._to_headless(text, service, port, request, source, number, assumptions)
        if source.external:
            proxies = [e.ip for e in service.load_balancer if e.ip is not None and e.ip.family in source.families]
            for proxy in proxies:
                if beyond := self._not_modelled_at(proxy):
                    party = Party(text, service.key, "load balancer", str(proxy), port.port)
                    return party, [Probe(proxy, port.port, not_modelled=beyond)], number
            entered = self._from_outside(text, service, port, request, source, assumptions)
            if entered is not None:
                return entered[0], [entered[1]], number
        address = _pick(service.cluster_ips, request, source, f"service {service.key}")
        return Party(text, service.key, "service", str(address), port.port), [Probe(address, port.port)], number

    def _from_outside(
        self, text: str, service: Service, port: ServicePort, request: Request, source: Source, assumptions: list[str]
    ) -> tuple[Party, Probe] | None:
        """How the outside enters a service: load balancer address, external IP, or a node's port; None: only by its ClusterIP."""
        families = [f for f in source.families if request.family in (None, f)]
        for address in entry_addresses(service):
            if address.family in families:
                if request.at is None:
                    assumptions.append(self._enters(address, service.key))
                return Party(text, service.key, "service address", str(address), port.port), Probe(address, port.port)
        if port.node_port is None:
            return None
        node = self.cluster.nodes[request.at] if request.at is not None else next(iter(self.cluster.nodes.values()))
        if request.at is None:
            assumptions.append(f"from outside, service {service.key} is entered at {node.name}'s NodePort (choose with --at)")
        address = _pick(node.internal_ips, request, source, f"node {node.name}")
        return Party(text, service.key, "NodePort", str(address), port.node_port), Probe(address, port.node_port)

    def _to_headless(
        self,
        text: str,
        service: Service,
        port: ServicePort,
        request: Request,
        source: Source,
        protocol: int,
        assumptions: list[str],
    ) -> tuple[Party, list[Probe], int]:
        """A headless service is a DNS name with an address per ready endpoint; the client takes one of them."""
        probes: dict[tuple[Ip, int], str] = {}
        families = [f for f in source.families if request.family in (None, f)]
        for part in self.cluster.slices.get(service.key, ()):
            if part.family not in families[:1]:
                continue
            for p in part.ports:
                if p.name != port.name or p.port is None:
                    continue
                for endpoint in part.endpoints:
                    if endpoint.ready or service.publish_not_ready_addresses:
                        for address in endpoint.addresses:
                            probes[address, p.port] = endpoint.target_pod or str(address)
        if not probes:
            reason = f"headless service {service.key} has no ready endpoint: DNS gives no address, and no packet is sent"
            party = Party(text, service.key, "headless service", "", None)
            return party, [Probe(Ip(families[0], 0), port.port, unnamed=reason)], protocol
        share = Fraction(1, len(probes))
        assumptions.append(f"headless service {service.key}: the client takes any of the {len(probes)} addresses that DNS gives")
        made = [Probe(address, number, share, f"DNS: {who}") for (address, number), who in probes.items()]
        return Party(text, service.key, "headless service", "", None), made, protocol


# -- one run -----------------------------------------------------------------------------------------------------------


def _walk(
    network: Network,
    links: Links,
    source: Source,
    probes: list[Probe],
    protocol: int,
    sport: int,
    size: int | None,
    chooser: Chooser,
) -> Leaf:
    probe = probes[0]
    if len(probes) > 1:
        probe = probes[chooser.choose([p.weight for p in probes], "the client's choice among DNS answers")]
    if probe.unnamed:
        kind = network.namespaces[source.netns].kind.value
        refused = Rejected(probe.unnamed, "DNS: no address")
        return Leaf(Verdict.REJECTED, probe.unnamed, (Hop(source.netns, kind, (refused,)),))
    if protocol == SCTP and probe.dst.is_loopback and source.ip is not None and not source.ip.is_loopback:
        # net/sctp/bind_addr.c sctp_copy_one: an address joins an association only where its scope fits the peer's
        probe = replace(probe, not_modelled=f"SCTP from {source.ip} to {probe.dst}: what it offers depends on scopes")
    if probe.not_modelled:
        kind = network.namespaces[source.netns].kind.value
        return Leaf(Verdict.UNKNOWN, probe.not_modelled, (Hop(source.netns, kind, (UnknownStep(probe.not_modelled),)),))
    src = source.ip if source.ip is not None and source.ip.family == probe.dst.family else Ip(probe.dst.family, 0)
    icmp = protocol in (ICMP, ICMPV6)
    packet = Packet(
        src=src,
        dst=probe.dst,
        protocol=protocol,
        sport=0 if icmp else sport,
        dport=probe.port,
        icmp_type=(ECHO_REQUEST if protocol == ICMP else V6_ECHO_REQUEST) if icmp else 0,
        icmp_id=1 if icmp else 0,
        tcp_flags=SYN if protocol == TCP else 0,
        length=size if size is not None else _LENGTHS.get(protocol, _OTHER_LENGTH),
    )
    walk = Walk(network, links, chooser)
    walk.expected = Expected(source.netns, packet.flow, source.owner)
    out = walk.local_out(network.namespaces[source.netns], packet, source.owner)
    hops = walk.take_hops()
    leaf = Leaf(Verdict(out.kind), out.reason or None, hops)
    if out.proxy is not None:
        said = speak(walk, network.namespaces[source.netns], packet, out, hops)
        leaf = Leaf(said.verdict, said.reason, said.hops, said.endpoint, said.endpoint_name, said.source_seen, said.reply)
    elif out.kind == "delivered":
        assert out.packet is not None
        leaf.endpoint = socket_text(out.packet.dst, out.packet.dport)
        leaf.endpoint_name = out.owner
        leaf.source_seen = str(out.packet.src)
        _walk_reply(walk, network.namespaces[source.netns], packet, network.namespaces[out.netns], out.packet, leaf)
    elif out.answer is not None:
        back = walk.send_answer(out)
        arrived = back.kind == "delivered"
        leaf.reply = Reply("error", arrived, walk.take_hops(), None if arrived else back.reason)
        if back.kind == "unknown":
            leaf.verdict, leaf.reason = Verdict.UNKNOWN, f"{out.reason}; whether the sender hears of it depends on {back.reason}"
        elif not arrived and out.kind == "rejected":
            leaf.verdict, leaf.reason = Verdict.DROPPED, f"{out.reason}; the error does not reach the sender: {back.reason}"
    leaf.choices = tuple(c.label for c in chooser.made if c.weights is not None and (c.count != 2 or c.index == 0 or c.named))
    if len(probes) > 1:
        leaf.choices = (probe.label, *leaf.choices[1:])
    leaf.assumptions = tuple(walk.assumptions)
    return leaf


def _walk_reply(walk: Walk, home: Netns, sent: Packet, netns: Netns, received: Packet, leaf: Leaf) -> None:
    """What the endpoint in `netns` says to the packet that it received, and for TCP what the sender at `home` says to that."""
    back = walk.local_out(netns, reply_to(received), leaf.endpoint_name or netns.name)
    hops = walk.take_hops()
    if back.kind == "delivered" and not back.is_answer:
        leaf.reply = Reply("reply", True, hops)
        if received.protocol in (TCP, SCTP) and back.packet is not None:
            _walk_third(walk, home, sent, netns, received, back.packet, leaf)
        return
    leaf.reply = Reply("reply", False, hops, back.reason)
    if back.kind == "unknown":
        leaf.verdict = Verdict.UNKNOWN
        leaf.reason = f"the request arrives; the reply depends on {back.reason}"
    else:
        leaf.verdict = Verdict.DROPPED
        leaf.reason = f"the request arrives, but the reply dies: {back.reason}"


def _walk_third(walk: Walk, home: Netns, sent: Packet, netns: Netns, received: Packet, answer: Packet, leaf: Leaf) -> None:
    """The ACK that ends TCP's handshake (SCTP's COOKIE-ECHO), and speaks for all that follows it; nothing is recorded where it
    arrives.

    Where the ways there and back differ, a node that saw the SYN but not the SYN-ACK takes it for INVALID
    (nf_conntrack_proto_tcp.c: an ACK while in SYN_SENT; nf_conntrack_proto_sctp.c: a tag that it was not told), and KUBE-FORWARD
    drops that.
    """
    assert leaf.reply is not None
    walk.expected = Expected(netns.name, received.flow.reversed(), leaf.endpoint_name or netns.name)
    third = replace(sent, src=answer.dst, tcp_flags=ACK, length=_ACK_LENGTH)
    said, says = ("INIT-ACK", "COOKIE-ECHO") if received.protocol == SCTP else ("SYN-ACK", "ACK")
    walk.note(home.name, f"the {said} has arrived; the sender's {says}:")
    out = walk.local_out(home, third, home.name)
    hops = walk.take_hops()
    if out.kind == "delivered" and not out.is_answer:
        return
    leaf.reply = Reply("reply", False, (*leaf.reply.hops, *hops), out.reason, handshake=True)
    if out.kind == "unknown":
        leaf.verdict = Verdict.UNKNOWN
        leaf.reason = f"the request and the reply arrive; what the sender says next depends on {out.reason}"
    else:
        leaf.verdict = Verdict.DROPPED
        leaf.reason = f"the request and the reply arrive, but nothing that the sender says next: {out.reason}"


def _made_unknown(leaf: Leaf, label: str) -> Leaf:
    step = UnknownStep(f"undecided: {label}")
    hops = (*leaf.hops[:-1], replace(leaf.hops[-1], steps=(*leaf.hops[-1].steps, step))) if leaf.hops else ()
    return Leaf(Verdict.UNKNOWN, f"it depends on {label}", hops, choices=leaf.choices, assumptions=leaf.assumptions)


def _whole(leaf: Leaf) -> Weighted[Leaf]:
    return Weighted(Fraction(1), leaf)


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict: that of all branches, `partial` where they differ, `unknown` where what is known leaves that open."""
    seen = set(verdicts)
    if len(seen) == 1:
        return seen.pop()
    if len(seen - {Verdict.UNKNOWN}) > 1:
        return Verdict.PARTIAL
    return Verdict.UNKNOWN


# -- ports, protocols, families ----------------------------------------------------------------------------------------


def _protocol(text: str | None) -> int | None:
    if text is None:
        return None
    number = PROTOCOL_NUMBERS.get(text.lower())
    if number not in (TCP, 17, 132, ICMP):
        raise InputError(f'unknown protocol "{text}"', hint="one of: tcp, udp, sctp, icmp")
    return number


def _for_family(protocol: int, address: Ip) -> int:
    return ICMPV6 if protocol == ICMP and address.family == 6 else protocol


def _is_nowhere(address: Ip) -> bool:
    if address.value == 0 or address.is_multicast:
        return True
    return address.family == 4 and (address.value >> 28 == 0xF or address.value >> 24 == 0)


def _pick(addresses: tuple[Ip, ...], request: Request, source: Source, whose: str) -> Ip:
    """The address to send to: of the family asked for, else the first that the source can reach."""
    families = source.families if request.family is None else (request.family,)
    for address in addresses:
        if address.family in families and address.family in source.families:
            return address
    wanted = " or ".join(f"IPv{f}" for f in families)
    if request.family is not None and request.family not in source.families:
        raise InputError(f"{source.party.name} has no IPv{request.family} address")
    raise InputError(f"{whose} has no {wanted} address" + (f" (it has {', '.join(map(str, addresses))})" if addresses else ""))


def _number(port: int | str | None, protocol: int, text: str) -> int:
    if protocol in (ICMP, ICMPV6):
        return 0
    if port is None:
        raise InputError(f'"{text}" has no port', hint=f"add one, as in {_example(text)}, or use --proto icmp")
    if isinstance(port, str):
        raise InputError(f'"{port}" in "{text}" is not a port number', hint="names work for services and pods only")
    return port


def _example(text: str) -> str:
    return f"[{text}]:80" if text.count(":") > 1 and "[" not in text else f"{text}:80"


def _pod_port(pod: Pod, port: int | str | None, protocol: int | None, text: str) -> tuple[int, int]:
    """Port and protocol of a pod destination: a number, the name of a container port, or its only declared port."""
    if protocol == ICMP:
        return 0, _for_family(ICMP, pod.ips[0])
    declared = [p for p in pod.ports if protocol is None or PROTOCOL_NUMBERS[p.protocol.lower()] == protocol]
    listed = ", ".join(f"{p.container_port}/{p.protocol}" + (f" ({p.name})" if p.name else "") for p in pod.ports)
    if isinstance(port, int):
        same = [p for p in declared if p.container_port == port]
        number = PROTOCOL_NUMBERS[same[0].protocol.lower()] if same and protocol is None and len(same) == 1 else protocol
        return port, number if number is not None else TCP
    if isinstance(port, str):
        named = container_port(pod, port, None if protocol is None else protocol_name(protocol).upper())
        return named.container_port, PROTOCOL_NUMBERS[named.protocol.lower()]
    if len(declared) == 1:
        return declared[0].container_port, PROTOCOL_NUMBERS[declared[0].protocol.lower()]
    hint = f"add one of pod {pod.key}'s ports: {listed}" if pod.ports else f"add one, as in {_example(text)}"
    raise InputError(f'"{text}" has no port', pod.ref, hint)
