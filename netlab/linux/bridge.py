"""Links: who is at the other end of a device, which devices share a broadcast domain, and which bridge port leads to a MAC.

    pod eth0 ===veth=== vethX --+
                                +-- cni0          node-1 eth0 --+-- segment "fabric" --+-- node-2 eth0
    pod eth0 ===veth=== vethY --+

Law: bridges are taken as having learned where every MAC of their domain is (the ARP exchange before any IP packet
teaches them); a MAC that nobody has is flooded and nobody takes it. Static FDB entries win over what would be learned.
"""

from __future__ import annotations

from netlab.linux.addr import Ip
from netlab.linux.netns import Device, DeviceKind, Netns
from netlab.linux.network import Network

Place = tuple[str, str]  # (namespace, device)


class Links:
    """The wires of a network, indexed once."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._parent: dict[object, object] = {}
        self.ports: dict[Place, list[str]] = {}  # bridge -> its ports, in order of index
        for netns in network.namespaces.values():
            for device in netns.devices.values():
                self._join(netns, device)
        self._by_ip: dict[Ip, list[Place]] = {}
        self._by_mac: dict[tuple[object, str], list[Place]] = {}
        self._proxies: list[Place] = []
        for netns in network.namespaces.values():
            for device in netns.devices.values():
                self._index(netns, device)

    def _find(self, thing: object) -> object:
        parent = self._parent.setdefault(thing, thing)
        while parent != self._parent[parent]:
            self._parent[parent] = self._parent[self._parent[parent]]
            parent = self._parent[parent]
        self._parent[thing] = parent
        return parent

    def _join(self, netns: Netns, device: Device) -> None:
        here = (netns.name, device.name)
        self._find(here)
        if not device.up:
            return
        if device.peer is not None and self.device(device.peer) is not None:
            self._parent[self._find(here)] = self._find(device.peer)
        if device.segment is not None:
            self._parent[self._find(here)] = self._find(("segment", device.segment, ""))
        if device.master is not None:
            bridge = (netns.name, device.master)
            self.ports.setdefault(bridge, []).append(device.name)
            self._parent[self._find(here)] = self._find(bridge)

    def _index(self, netns: Netns, device: Device) -> None:
        here = (netns.name, device.name)
        for address in device.addresses:
            self._by_ip.setdefault(address.ip, []).append(here)
        if device.mac and device.master is None:
            self._by_mac.setdefault((self._find(here), device.mac), []).append(here)
        if netns.sysctl(f"ipv4.conf.{device.name}.proxy_arp") or netns.sysctl("ipv4.conf.all.proxy_arp"):
            self._proxies.append(here)

    def device(self, place: Place) -> Device | None:
        """The device at a place, if it exists."""
        netns = self.network.namespaces.get(place[0])
        return netns.devices.get(place[1]) if netns is not None else None

    def domain(self, place: Place) -> object:
        """The broadcast domain that a device belongs to (a token to compare)."""
        return self._find(place)

    def holders(self, ip: Ip) -> list[Place]:
        """The devices that carry an address, anywhere."""
        return self._by_ip.get(ip, [])

    def on_link(self, place: Place) -> list[Place]:
        """All devices of the broadcast domain that hand packets to an IP stack (bridge ports do not)."""
        wanted = self.domain(place)
        return [
            (netns.name, device.name)
            for netns in self.network.namespaces.values()
            for device in netns.devices.values()
            if device.master is None and self.domain((netns.name, device.name)) == wanted
        ]

    def mac_owner(self, place: Place, mac: str) -> Place | None:
        """Which device of this broadcast domain has the MAC."""
        found = self._by_mac.get((self.domain(place), mac))
        return found[0] if found else None

    def proxies(self, place: Place) -> list[Place]:
        """Devices of this broadcast domain with proxy_arp on."""
        wanted = self.domain(place)
        return [p for p in self._proxies if self.domain(p) == wanted]

    def port_towards(self, netns: str, bridge: str, mac: str) -> str | None:
        """The bridge port behind which the MAC is (None: nowhere on this bridge)."""
        space = self.network.namespaces[netns]
        for entry in space.fdb:
            if entry.mac == mac and entry.master == bridge and entry.dst is None and entry.dev in space.devices:
                return entry.dev
        owner = self.mac_owner((netns, bridge), mac)
        if owner is None:
            return None
        ports = self.ports.get((netns, bridge), [])
        device = self.device(owner)
        if device is not None and device.peer is not None and device.peer[0] == netns and device.peer[1] in ports:
            return device.peer[1]
        for port in ports:
            if self._reaches(netns, port, owner):
                return port
        return None

    def _reaches(self, netns: str, port: str, owner: Place) -> bool:
        """Does the wire behind a port lead to `owner`? A port's far side may be a segment or another bridge."""
        device = self.network.namespaces[netns].devices[port]
        seen: set[Place] = {(netns, port)}
        todo: list[Place] = []
        if device.peer is not None:
            todo.append(device.peer)
        if device.segment is not None:
            todo += [p for p in self._segment_ports(device.segment) if p not in seen]
        while todo:
            place = todo.pop()
            if place == owner:
                return True
            if place in seen:
                continue
            seen.add(place)
            far = self.device(place)
            if far is None or far.master is None:
                continue
            for other in self.ports.get((place[0], far.master), []):
                if other != place[1]:
                    beyond = self.network.namespaces[place[0]].devices[other]
                    if beyond.peer is not None:
                        todo.append(beyond.peer)
                    if beyond.segment is not None:
                        todo += self._segment_ports(beyond.segment)
        return False

    def _segment_ports(self, segment: str) -> list[Place]:
        return [
            (netns.name, device.name)
            for netns in self.network.namespaces.values()
            for device in netns.devices.values()
            if device.segment == segment and device.up
        ]


def is_layer2(device: Device) -> bool:
    """Does the device need a MAC for the next hop (and so a neighbour)?"""
    return device.kind in (DeviceKind.PHYSICAL, DeviceKind.VETH, DeviceKind.BRIDGE, DeviceKind.VXLAN, DeviceKind.DUMMY)
