"""`netlab dump`: what a node or pod holds, in the words of the tool that would print it there.

Law: the text is the tool's own, so it can be compared with, or loaded by, the tool. What netlab does not model is an error that
says so, never an empty answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, emit, note, open_tracer
from netlab.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from netlab.kube.cluster import Cluster
    from netlab.linux.netns import Netns
    from netlab.linux.network import Network

WHAT = (
    "iptables-save", "ip6tables-save", "nft", "ipset", "ipvsadm", "ipvsadm-ln",
    "addr", "link", "route", "rule", "neigh", "fdb", "program",
)  # fmt: skip
NO_JSON = ("iptables-save", "ip6tables-save", "ipset", "ipvsadm", "ipvsadm-ln", "program")


def dump(
    where: Annotated[str, Parameter(help="A node (node-1), a pod ([NAMESPACE/]pod/NAME) or `internet`.")],
    what: Annotated[
        str,
        Parameter(
            help=f"One of {', '.join(WHAT)}. ipvsadm is what `ipvsadm -S -n` prints, ipset what `ipset save` does; program says "
            "how netlab's matching core finds rules: those of iptables and nft, and IPVS's services."
        ),
    ],
    /,
    *,
    output: Annotated[
        Literal["text", "json"],
        Parameter(alias="-o", group=OUTPUT, help="json is what `nft -j`, `ip -j` and `bridge -j` print; the others have none."),
    ] = "text",
    family: Annotated[
        Literal[4, 6] | None, Parameter(group=OUTPUT, help="`ip -4` (the default) or `ip -6`, for route, rule and program.")
    ] = None,
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """What a node or pod holds, in the tool's own syntax.

    For example:
      netlab dump node-1 iptables-save -f cluster.json
      netlab dump node-1 nft -o json
      netlab dump node-1 route
      netlab dump pod/web-0 addr -o json
      netlab dump node-1 ipvsadm --proxy-mode ipvs
      netlab dump node-2 fdb --observed node-2=dumps/node-2/
    """
    if what not in WHAT:
        known = ", ".join(WHAT)
        near = did_you_mean(what, WHAT)
        raise InputError(f'cannot dump "{what}"', hint=f"{near} (there is {known})" if near else f"there is {known}")
    if output == "json" and what in NO_JSON:
        raise InputError(f"{what} has no JSON form", hint="leave -o json out")
    if family is not None and what not in ("route", "rule", "program"):
        raise InputError(f"--family does not go with {what}", hint="it chooses between `ip -4` and `ip -6` route and rule")
    from netlab.linux.netns import NetnsKind
    from netlab.linux.rules import nft_tables

    declared, tracer = open_tracer(cluster)
    netns = find(where, declared, tracer.network, cluster.namespace)
    if netns.name in declared.nodes and where.rpartition("/")[2] != netns.name:
        note(cluster, f"{where} uses its node's network: this is {netns.name}")
    if (what == "ipset" and not netns.sets) or (what == "nft" and not nft_tables(netns.rulesets)):
        note(cluster, f"{netns.name}: {what} would print nothing")
    if what == "program" and not netns.ipvs and not any(r.tables or r.nft_tables for r in netns.rulesets.values()):
        note(cluster, f"{netns.name}: there are no rules")
    if what in ("ipvsadm", "ipvsadm-ln") and not netns.ipvs:
        expected = netns.kind is NetnsKind.NODE and "ipvs" not in netns.origins
        why = f", kube-proxy runs in {declared.proxy.mode} mode" if expected else ""
        note(cluster, f"{netns.name}: ipvsadm would print no services{why}")
    emit(_text(netns, what, family, output == "json"))
    return 0


def find(where: str, cluster: Cluster, network: Network, namespace: str) -> Netns:
    """The network namespace that the user means; a hostNetwork pod's is its node's.

    Raises
    ------
    InputError
        Nothing has that name, or both a node and a pod do; with candidates.
    """
    match where.split("/"):
        case ["node" | "nodes" | "no", name]:
            if name not in cluster.nodes:
                raise InputError(f'unknown node "{name}"', hint=_near(name, cluster.nodes))
            return network.namespaces[name]
        case ["pod" | "pods" | "po", name]:
            return _pod(f"{namespace}/{name}", cluster, network)
        case [space, "pod" | "pods" | "po", name] | [space, name]:
            return _pod(f"{space}/{name}", cluster, network)
        case [name]:
            key = f"{namespace}/{name}"
            if name in network.namespaces and key in cluster.pods:
                raise InputError(f'"{name}" is both a node and a pod', hint=f"say node/{name} or pod/{name}")
            if name in network.namespaces:
                return network.namespaces[name]
            if key in cluster.pods:
                return _pod(key, cluster, network)
            pods = [pod.name for pod in cluster.pods.values() if pod.namespace == namespace]
            near = did_you_mean(name, [*network.namespaces, *pods])
            raise InputError(f'unknown node or pod "{name}"', hint=near or f"nodes: {', '.join(cluster.nodes)}")
    raise InputError(f'"{where}" is not a node or a pod', hint="for example node-1, pod/web-0, default/pod/web-0, internet")


def _pod(key: str, cluster: Cluster, network: Network) -> Netns:
    pod = cluster.pods.get(key)
    if pod is None:
        raise InputError(f'unknown pod "{key}"', hint=_near(key, cluster.pods))
    if key in network.namespaces:
        return network.namespaces[key]
    if pod.host_network and pod.node_name in network.namespaces:
        return network.namespaces[pod.node_name]
    raise InputError(f'pod "{key}" has no network (phase {pod.phase})', pod.ref)


def _near(name: str, names: Iterable[str]) -> str:
    some = list(names)
    return did_you_mean(name, some) or f"there is {', '.join(some[:10]) or 'none'}{' ...' if len(some) > 10 else ''}"


def _text(netns: Netns, what: str, family: Literal[4, 6] | None, json: bool) -> str:
    if what in ("iptables-save", "ip6tables-save"):
        from netlab.linux.text.iptables_save import write

        of = 6 if what == "ip6tables-save" else 4
        ruleset = netns.rulesets.get(of)
        return write(ruleset, family=of) if ruleset is not None else ""
    if what == "nft":
        from netlab.linux.rules import nft_tables
        from netlab.linux.text.nft import write_json, write_text

        tables = nft_tables(netns.rulesets)
        return write_json(tables) if json else write_text(tables)
    if what == "program":
        return _program(netns, family or 4)
    from netlab.linux.text import iproute

    match what:
        case "ipset":
            from netlab.linux.text import ipset

            return ipset.write(netns.sets)
        case "ipvsadm" | "ipvsadm-ln":
            from netlab.linux.text import ipvsadm

            return ipvsadm.write_save(netns.ipvs) if what == "ipvsadm" else ipvsadm.write_list(netns.ipvs)
        case "addr":
            return iproute.print_addr(netns, json=json)
        case "link":
            return iproute.print_link(netns, json=json)
        case "route":
            return iproute.print_route(netns, family=family or 4, json=json)
        case "rule":
            return iproute.print_rule(netns, family=family or 4, json=json)
        case "neigh":
            return iproute.print_neigh(netns, json=json)
        case _:
            return iproute.print_fdb(netns, json=json)


_FOUND = {  # what words of the last column mean
    "hash of": "rules with these fields are looked up by their values",
    "cuts of": "the first rule that holds is found in a decision tree",
    "rule by rule": "these are asked in their order, where a look-up has not decided yet",
    "alike": "of those looked up so many differ in addresses, ports and names alone: what they lead to is worked out once a kind",
    "asked packet by packet": "only the walk that explains packets knows this match",
    "packets are walked one by one": "only the walk that explains packets knows what these rules do",
}


def _program(netns: Netns, family: int) -> str:
    """How the matching core finds rules, chain by chain."""
    from netlab.match.layout import layout
    from netlab.render.columns import table

    rows = [
        (row.hook, row.table, row.chain + (f" and {row.alike} alike" if row.alike else ""), str(row.rules), row.found or "empty")
        for row in layout(netns, family)
    ]
    if not rows:
        return ""
    lines = table([("HOOK", "TABLE", "CHAIN", "RULES", "HOW THEY ARE FOUND"), *rows])
    legend = [f"{word}: {meaning}" for word, meaning in _FOUND.items() if any(word in row[-1] for row in rows)]
    return "\n".join([*lines, "", *legend])
