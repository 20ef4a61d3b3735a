"""Links: who is at the other end of a device, which devices share a broadcast domain, and which bridge port leads to a MAC.

    pod eth0 ===veth=== vethX --+
                                +-- cni0          node-1 eth0 --+-- segment "fabric" --+-- node-2 eth0
    pod eth0 ===veth=== vethY --+

Law: bridges are taken as having learned where every MAC of their domain is (the ARP exchange before any IP packet
teaches them); a MAC that nobody has is flooded and nobody takes it. Static FDB entries win over what would be learned. Only
the domains that a packet meets are looked at: the pods of other nodes need not exist yet.
"""

from __future__ import annotations

from netlab.linux.addr import Ip
from netlab.linux.netns import Device, DeviceKind, Netns
from netlab.linux.network import Network

Place = tuple[str, str]  # (namespace, device)


class Domain:
    """One broadcast domain: the devices that hand packets to an IP stack (bridge ports do not), by address and by MAC."""

    def __init__(self, network: Network, places: list[Place]) -> None:
        self.by_mac: dict[str, Place] = {}
        self.by_ip: dict[Ip, list[Place]] = {}  # the address is the device's own
        self.by_host: dict[Ip, list[Place]] = {}  # the address belongs to another device of the same host
        self.proxies: list[Place] = []
        for place in places:
            netns = network.namespaces[place[0]]
            device = netns.devices[place[1]]
            if device.mac:
                self.by_mac.setdefault(device.mac, place)
            for address in device.addresses:
                self.by_ip.setdefault(address.ip, []).append(place)
            for other in netns.devices.values():
                if other.name != device.name:
                    for address in other.addresses:
                        if address.scope == "global":
                            self.by_host.setdefault(address.ip, []).append(place)
            named = any(entry.proxy and entry.dev == device.name for entry in netns.neighbours)
            if named or netns.sysctl(f"ipv4.conf.{device.name}.proxy_arp") or netns.sysctl("ipv4.conf.all.proxy_arp"):
                self.proxies.append(place)


class Links:
    """The wires of a network; domains are found when first asked for."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._domains: dict[Place, Domain] = {}
        self._ports: dict[Place, tuple[str, ...]] = {}
        self._segments: dict[str, list[Place]] | None = None

    def device(self, place: Place) -> Device | None:
        """The device at a place, if it exists."""
        netns = self.network.namespaces.get(place[0])
        return netns.devices.get(place[1]) if netns is not None else None

    def ports(self, netns: Netns, bridge: str) -> tuple[str, ...]:
        """The ports of a bridge."""
        key = (netns.name, bridge)
        if key not in self._ports:
            self._ports[key] = tuple(d.name for d in netns.devices.values() if d.master == bridge)
        return self._ports[key]

    def domain(self, place: Place) -> Domain:
        """The broadcast domain that a device belongs to."""
        known = self._domains.get(place)
        if known is not None:
            return known
        members: list[Place] = []
        seen: set[Place] = set()
        todo = [place]
        while todo:
            here = todo.pop()
            device = self.device(here)
            if here in seen or device is None:
                continue
            seen.add(here)
            if device.master is None:
                members.append(here)
            if device.up:
                todo += self._neighbours(here, device)
        made = Domain(self.network, sorted(members))
        for here in seen:
            self._domains[here] = made
        return made

    def _neighbours(self, place: Place, device: Device) -> list[Place]:
        """What a frame reaches directly from a device: the veth's peer, the segment's ports, the bridge, a bridge's ports."""
        found: list[Place] = []
        if device.peer is not None and (far := self.device(device.peer)) is not None and far.up:
            found.append(device.peer)
        if device.segment is not None:
            found += self._segment_ports(device.segment)
        netns = self.network.namespaces[place[0]]
        if device.master is not None and device.master in netns.devices:
            found.append((place[0], device.master))
        if device.kind is DeviceKind.BRIDGE:
            found += [(place[0], port) for port in self.ports(netns, device.name)]
        return found

    def _segment_ports(self, segment: str) -> list[Place]:
        if self._segments is None:
            self._segments = {}
            for name in self.network.hosts or self.network.namespaces:
                for device in self.network.namespaces[name].devices.values():
                    if device.segment is not None and device.up:
                        self._segments.setdefault(device.segment, []).append((name, device.name))
        return self._segments.get(segment, [])

    def port_towards(self, netns: str, bridge: str, mac: str) -> str | None:
        """The bridge port behind which the MAC is (None: nowhere on this bridge)."""
        space = self.network.namespaces[netns]
        for entry in space.fdb:
            if entry.mac == mac and entry.master == bridge and entry.dst is None and entry.dev in space.devices:
                return entry.dev
        owner = self.domain((netns, bridge)).by_mac.get(mac)
        if owner is None:
            return None
        ports = self.ports(space, bridge)
        device = self.device(owner)
        if device is not None and device.peer is not None and device.peer[0] == netns and device.peer[1] in ports:
            return device.peer[1]
        return next((port for port in ports if self._reaches((netns, port), owner)), None)

    def _reaches(self, port: Place, owner: Place) -> bool:
        """Does the wire behind a bridge port lead to `owner`? The far side may be a segment or another bridge."""
        device = self.device(port)
        assert device is not None
        bridge = (port[0], device.master or "")
        seen = {port, bridge}
        todo = [p for p in self._neighbours(port, device) if p != bridge]
        while todo:
            here = todo.pop()
            if here == owner:
                return True
            beyond = self.device(here)
            if here in seen or beyond is None:
                continue
            seen.add(here)
            todo += self._neighbours(here, beyond)
        return False
