"""BIRD in the lab: a configuration for every node of a Calico cluster, and whether what BIRD installs is what was computed.

Law: the routes that netlab would have written (`proto bird`) are left out of the plan and learned instead, by Debian's bird2 with
configurations that follow Calico's confd templates: the same sessions, filters and recursion. Where Calico's own BIRD 1.6 says
`krt_tunnel`, BIRD 2 says gateway, device and `onlink`. Nothing here computes a route: dataplane/cni/bgp.py does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from netlab.dataplane.cni import bgp
from netlab.errors import InputError
from netlab.kube.cluster import Cluster
from netlab.lab.host import Lab
from netlab.lab.plan import Plan, Run, make_plan, netns_file
from netlab.linux.addr import Ip
from netlab.linux.netns import Netns
from netlab.linux.network import Network
from netlab.linux.route import route_text
from netlab.linux.text import iproute


class Comparison(msgspec.Struct, frozen=True):
    """What BIRD installed against what was computed: the number of equal routes, and one line per difference."""

    equal: int
    differences: tuple[str, ...] = ()
    seconds: float = 0.0


def speaks(cluster: Cluster) -> bool:
    """Does anybody in this cluster speak BGP?"""
    return cluster.cni.name == "calico" and cluster.calico.backend == "bird"


def plan_with_bird(cluster: Cluster, network: Network, variant: str = "legacy") -> Plan:
    """The plan of a lab in which BIRD runs on every node (and on the router, where nodes peer with it).

    Raises
    ------
    InputError
        The cluster speaks no BGP.
    """
    if not speaks(cluster):
        hint = "it is what Calico with backend bird does: topologies/calico-bgp.yaml"
        raise InputError("nobody in this cluster speaks BGP", hint=hint)
    texts = configurations(cluster)
    plan = make_plan(without_learned(network, texts), variant=variant)
    daemons: list[Run] = []
    for name, text in texts.items():
        ns = netns_file(name)
        file = f"/run/bird-{ns}"
        daemons.append(Run(ns, ("tee", f"{file}.conf"), text))
        daemons.append(Run(ns, ("bird", "-c", f"{file}.conf", "-s", f"{file}.ctl")))
    return msgspec.structs.replace(plan, actions=(*plan.actions, *daemons))


def without_learned(network: Network, names: Mapping[str, object]) -> Network:
    """The network before anybody has learned anything: no route `proto bird` in the namespaces of `names`."""
    spaces = dict(network.namespaces)
    for name in names:
        own = spaces[name]
        routes = tuple(route for route in own.routes if route.protocol != bgp.PROTOCOL)
        spaces[name] = msgspec.structs.replace(own, routes=routes, cache={})
    return msgspec.structs.replace(network, namespaces=spaces)


# -- configurations ----------------------------------------------------------------------------------------------------


def configurations(cluster: Cluster) -> dict[str, str]:
    """bird.conf by namespace: every node, and the router where a BGPPeer names it."""
    families = sorted({pool.cidr.family for pool in cluster.calico.pools})
    sessions = {family: bgp.sessions(cluster, family)[0] for family in families}
    speakers = {family: bgp.speakers(cluster, family) for family in families}
    names = [*cluster.nodes]
    if any(bgp.ROUTER in found for found in speakers.values()):
        names.append(bgp.ROUTER)
    return {name: _configuration(cluster, name, speakers, sessions) for name in names}


def _configuration(
    cluster: Cluster,
    name: str,
    speakers: Mapping[int, Mapping[str, bgp.Speaker]],
    sessions: Mapping[int, Sequence[bgp.Session]],
) -> str:
    own = {family: found[name] for family, found in speakers.items() if name in found}
    router_id = next((speaker.router_id for speaker in own.values()), Ip(4, 1))
    lines = [
        f"# {name}: what confd would write, in the words of BIRD 2",
        f"router id {router_id};",
        "protocol device { scan time 1; }",
        'protocol direct { ipv4; ipv6; interface -"cali*", -"kube-ipvs*", "*"; }',
    ]
    for family in own:
        lines += _family(cluster, name, family, speakers[family], [s for s in sessions[family] if s.speaker == name])
    return "".join(f"{line}\n" for line in lines)


def _family(
    cluster: Cluster, name: str, family: int, speakers: Mapping[str, bgp.Speaker], sessions: Sequence[bgp.Session]
) -> list[str]:
    speaker = speakers[name]
    node = name != bgp.ROUTER
    blocks = [b for b in cluster.calico.blocks.get(name, ()) if b.family == family] if node else []
    lines: list[str] = []
    if blocks:
        routes = " ".join(f"route {block} blackhole;" for block in blocks if block.length < block.address.bits)
        lines.append(f"protocol static blocks{family} {{ ipv{family}; {routes} }}")
    lines += [f"filter telling{family} {{", *_export(cluster, family, blocks, node), "}"]
    lines += [f"filter programming{family} {{", *_kernel(cluster, family, speaker, node), "}"]
    lines += [
        f"protocol kernel kernel{family} {{",
        "  learn; persist; scan time 1; metric 0; merge paths on;",
        f"  ipv{family} {{ import all; export filter programming{family}; }};",
        "}",
    ]
    for n, session in enumerate(sessions):
        lines += _session(family, n, speaker, session, speakers[session.neighbour].as_number, node)
    return lines


def _export(cluster: Cluster, family: int, blocks: Sequence[object], node: bool) -> list[str]:
    """calico_export_to_bgp_peers: the block and nothing beneath it, then whatever lies in a pool."""
    if not node:
        return ["  if source = RTS_BGP then accept;", "  reject;"]
    lines = ['  if (defined(ifname) && ((ifname ~ "*.cali") || (ifname ~ "*.calico"))) then reject;']
    for block in blocks:
        lines += [f"  if (net = {block}) then accept;", f"  if (net ~ {block}) then reject;"]
    pools = [pool for pool in cluster.calico.pools if pool.cidr.family == family and not pool.disable_bgp_export]
    return [*lines, *(f"  if (net ~ {pool.cidr}) then accept;" for pool in pools), "  reject;"]


def _kernel(cluster: Cluster, family: int, speaker: bgp.Speaker, node: bool) -> list[str]:
    """calico_kernel_programming: VXLAN's routes are Felix's; IPIP's lead into tunl0, from another subnet only if so asked."""
    lines = ["  if source = RTS_DEVICE then reject;"]
    for pool in cluster.calico.pools if node else ():
        if pool.cidr.family != family:
            continue
        if pool.vxlan != "Never":
            lines.append(f"  if (net ~ {pool.cidr}) then reject;")
        elif pool.ipip != "Never" and family == 4:
            near = ""
            subnet = cluster.fabric.subnet_of(speaker.addresses[0])
            if pool.ipip == "CrossSubnet" and subnet is not None:
                near = f" && !(bgp_next_hop ~ {subnet})"
            tunnel = f'ifname = "{bgp.TUNL0}"; onlink = true; gw = bgp_next_hop;'
            lines.append(f"  if (net ~ {pool.cidr}) && (source = RTS_BGP){near} then {{ {tunnel} }}")
    return [*lines, "  accept;"]


def _session(
    family: int, number: int, speaker: bgp.Speaker, session: bgp.Session, remote_as: int, node: bool
) -> list[str]:
    kind = "multihop; " if session.internal else "direct; "
    reflect = ""
    if session.client:
        cluster_id = speaker.cluster_id if speaker.cluster_id.count(".") == 3 else str(Ip(4, int(speaker.cluster_id or 1)))
        reflect = f"rr client; rr cluster id {cluster_id}; "
    keep = "next hop keep; " if session.keep_next_hop else ""
    return [
        f"protocol bgp peer{family}_{number} {{  # {session.neighbour}",
        f"  local {session.local} as {speaker.as_number}; neighbor {session.remote} as {remote_as};",
        f"  {kind}{reflect}connect delay time 1; connect retry time 1; error wait time 1, 2;",
        f"  ipv{family} {{ import all; export filter telling{family}; {keep}{'gateway recursive; ' if node else ''}}};",
        "}",
    ]


# -- what came of it ---------------------------------------------------------------------------------------------------


def learned(lab: Lab, space: Netns) -> dict[str, str]:
    """What BIRD has installed in a namespace: destination -> the route as `ip route` prints it."""
    found: dict[str, str] = {}
    for family in (4, 6):
        answer = lab.run(space.name, "ip", "-j", f"-{family}", "route", "show").strip()
        for route in iproute.parse_route(answer or "[]", space.name):
            if route.protocol == bgp.PROTOCOL:
                found[str(route.dst)] = route_text(route)
    return found


def compare(lab: Lab, network: Network, names: Sequence[str], patience: float = 20.0) -> Comparison:
    """Wait until BIRD has installed exactly the computed routes in these namespaces, or patience (seconds) is at an end."""
    begun = time.monotonic()
    wanted = {
        name: {str(r.dst): route_text(r) for r in network.namespaces[name].routes if r.protocol == bgp.PROTOCOL} for name in names
    }
    while True:
        differences = []
        equal = 0
        for name, routes in wanted.items():
            got = learned(lab, network.namespaces[name])
            for dst in sorted({*routes, *got}):
                if routes.get(dst) == got.get(dst):
                    equal += 1
                else:
                    differences.append(f"{name} {dst}: netlab {routes.get(dst, 'no route')}; BIRD {got.get(dst, 'no route')}")
        seconds = time.monotonic() - begun
        if not differences or seconds > patience:
            return Comparison(equal, tuple(differences), seconds)
        time.sleep(0.2)
