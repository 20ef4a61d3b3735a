"""`netlab lab`: the cluster in real network namespaces, without root, and netlab's predictions compared with what Linux does.

Law: nothing of the host's network is touched; `down`, or the end of the lab's process however it comes, removes everything.
What is up is kept by name (--name), so that several labs can stand side by side.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Group, Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, Color, PacketFlags, Whole, color, emit, note, open_tracer, progress, request
from netlab.errors import InputError

if TYPE_CHECKING:
    from netlab.kube.cluster import Cluster
    from netlab.lab.random_clusters import RandomReport
    from netlab.lab.running import Description
    from netlab.linux.network import Network
    from netlab.trace.query import Tracer

LAB = Group("Lab", sort_key=0)
Name = Annotated[str, Parameter(group=LAB, metavar="NAME", help="Which lab; several can be up at the same time.")]
Namespace = Annotated[str, Parameter(alias="-n", metavar="NAME", help="Namespace of names that do not give one.")]
Iptables = Annotated[
    Literal["legacy", "nft"] | None,
    Parameter(
        group=LAB,
        help="Which iptables loads the rules: iptables-legacy or iptables-nft. Without it legacy; nft where nftables has rules "
        "of its own, which only the kernel's trace shows.",
    ),
]
Kernel = Annotated[
    Literal["auto", "host", "uml"],
    Parameter(group=LAB, help="The running kernel, user-mode Linux, or auto: the latter where the former lacks something."),
]

lab = App(
    name="lab",
    help="""The cluster in real network namespaces: touch it, and see whether Linux does what netlab says.

For example:
  netlab lab up                                        the example cluster; -f as for the other commands
  netlab lab exec pod/web-0 -- curl -s 10.96.0.20      any command in a pod's or node's network
  netlab lab trace web-0 svc/api                       one real packet, and its way through Linux
  netlab lab verify --flows 1000                       many flows, predicted and sent
  netlab lab down""",
)


@lab.command(sort_key=0)
def up(
    *,
    name: Name = "lab",
    iptables: Iptables = None,
    kernel: Kernel = "auto",
    bgp: Annotated[
        Literal["computed", "bird"],
        Parameter(group=LAB, help="Where BGP's routes come from: computed by netlab, or learned by BIRD, run on every node."),
    ] = "computed",
    dry_run: Annotated[
        bool, Parameter(negative=(), group=LAB, help="Print what would be done, as a shell script, and do nothing.")
    ] = False,
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """Stand a cluster up in private network namespaces, in the background.

    Needs no root where user namespaces are allowed. A process listens on every port that the cluster declares and answers with
    its name and the source address that it saw.

    For example:
      netlab lab up
      netlab lab up -f cluster.json --name other --iptables nft
      netlab lab up -f topologies/calico-bgp.yaml --bgp bird
      netlab lab up --dry-run > lab.sh && unshare -Urnm sh -e lab.sh
    """
    from netlab.lab import running
    from netlab.lab.plan import make_plan

    start = time.monotonic()
    if dry_run:
        running.check_name(name)
    else:
        running.must_be_free(name)
    stdin = sys.stdin.read() if "-" in cluster.filename else None
    declared, _, network = _open(cluster, stdin)
    iptables = _variant(iptables, network)
    if bgp == "bird":
        from netlab.lab.bird import plan_with_bird

        plan = plan_with_bird(declared, network, iptables)
    else:
        plan = make_plan(network, variant=iptables)
    for text in plan.notes:
        note(cluster, text)
    if dry_run:
        emit(str(plan))
        return 0
    chosen, modules = _kernel(cluster, network, iptables, kernel)
    spaces = {space: (file, network.namespaces[space].kind.value) for space, file in plan.names}
    aliases = {pod.key: pod.node_name for pod in declared.pods.values() if pod.host_network and pod.node_name in spaces}
    about: dict[str, object] = {
        "iptables": iptables,
        "spaces": spaces,
        "aliases": aliases,
        "files": tuple("-" if file == "-" else os.path.abspath(file) for file in cluster.filename),
        "flags": _overrides(cluster),
        "digest": _digest(network, iptables),
        "notes": plan.notes,
    }
    said = ""
    if chosen == "uml":
        from netlab.lab import umllab

        inside = ["lab", "up", "--name", name, "--iptables", iptables, "--bgp", bgp, "--kernel", "host", *_arguments(cluster)]
        made, said = umllab.up(name, inside, about, stdin=stdin, modules=modules)
    else:
        made = running.up(name, plan, about, stdin)
    learned = ""
    if bgp == "bird" and chosen == "uml":
        told, _, _ = said.partition("  netlab lab")  # the head of what it said, and below it what BIRD installed
        learned = told.partition("\n")[2]
    elif bgp == "bird":
        learned = _learned(declared, network, made)
    pod = next((space for space, (_, kind) in spaces.items() if kind == "pod"), None)
    of = "" if name == running.DEFAULT_NAME else f" --name {name}"
    emit(
        f"lab {made.name} is up: {_inventory(made)}, in {time.monotonic() - start:.1f} s\n{learned}"
        + (f"  netlab lab exec{of} pod/{pod.partition('/')[2]}{_namespace(pod)} -- ip route\n" if pod else "")
        + f"  netlab lab trace{of} SOURCE DESTINATION\n  netlab lab down{of}"
    )
    return 0


@lab.command(name="exec", sort_key=1)
def exec_(
    where: Annotated[str, Parameter(help="pod/web-0, [NAMESPACE/]NAME, node/node-1 or internet.")],
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True, help="What to run; a shell if left out.")],
    name: Name = "lab",
    namespace: Namespace = "default",
) -> int:
    """Run a command in the network of a pod or node. The exit code is the command's own.

    For example:
      netlab lab exec pod/web-0 -- curl -s 10.96.0.20
      netlab lab exec node/node-1 -- tcpdump -eni flannel.1
      netlab lab exec -n kube-system dns-0 -- ping -c1 10.244.0.10
      netlab lab exec node/node-1
    """
    from netlab.lab import running

    found = running.find(name)
    space = running.where(found, where, namespace)
    if found.uml:
        if not command:
            raise InputError("a shell needs a terminal, and user-mode Linux has none", hint="name a command: sh -c '...'")
        return _inside(found, ["exec", "--name", name, "-n", namespace, where, "--", *command])
    argv = running.command(found, space, list(command) or [os.environ.get("SHELL", "sh")])
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)
    except OSError:
        raise InputError(f"{argv[0]} is not installed", hint="on Debian or Ubuntu: apt-get install util-linux") from None


@lab.command(sort_key=2)
def trace(
    source: Annotated[str, Parameter(help="Who sends: a pod, workload, service, node, address or `internet`.")],
    destination: Annotated[str, Parameter(help="Who is meant; :PORT by number or name.")],
    /,
    *,
    name: Name = "lab",
    namespace: Namespace = "default",
    output: Annotated[
        Literal["text", "wide"],
        Parameter(alias="-o", group=OUTPUT, help="wide adds marks, conntrack states, MACs and the rules tried."),
    ] = "text",
    color_: Annotated[Color, Parameter(name="--color")] = "auto",
    packet: PacketFlags = PacketFlags(),
) -> int:
    """Send one real packet, and print its way through Linux, rule by rule.

    The branch that Linux took is printed as `netlab trace` prints it, with marks in the margin: = where Linux showed the rule
    or the device (with iptables-legacy by its counters, else in the kernel's order), - where only netlab says it, + where
    only Linux did it. Below stand the connections that are left. The exit code is 0 delivered, 1 not, or a difference.

    For example:
      netlab lab trace web-0 svc/api
      netlab lab trace internet node/node-1:30080
    """
    from netlab.lab import running
    from netlab.lab.single import send_one
    from netlab.render.text import render

    found = running.find(name)
    if found.uml:
        show = "always" if color(color_) else "never"
        arguments = ["trace", source, destination, "--name", name, "-n", namespace, "-o", output, "--color", show]
        for flag, value in (("--proto", packet.proto), ("--at", packet.at), ("--family", packet.family), ("--size", packet.size)):
            arguments += [flag, str(value)] if value is not None else []
        return _inside(found, arguments)
    flags = _as_flags(found, namespace)
    _, tracer, network = _open(flags, None)
    if found.digest != _digest(network, found.iptables):
        raise InputError(
            f"the input of lab {name} has changed since it was made", hint="netlab lab down, and up again, to have the new one"
        )
    if packet.at is not None:
        raise InputError("--at does not go with lab trace", hint="the lab's outside has its routes: name a node's address")
    with running.connect(found) as connection:
        one = send_one(tracer, network, connection, request(source, destination, flags, packet), found.iptables)
    emit(render(one.trace, wide=output == "wide", color=color(color_)))
    emit("\n" + one.text)
    return 0 if one.agrees and one.trace.exit_code == 0 else 1


@lab.command(sort_key=3)
def verify(
    *,
    flows: Annotated[
        Whole | None, Parameter(group=LAB, metavar="N", help="How many flows to send: 500, or 60 through each random cluster.")
    ] = None,
    seed: Annotated[Whole, Parameter(group=LAB, metavar="S", help="Which flows: the same seed gives the same ones.")] = 1,
    rules: Annotated[
        Whole,
        Parameter(group=LAB, metavar="N", help="How many to send once more, alone, to compare rules, devices, connections."),
    ] = 50,
    random: Annotated[
        Whole, Parameter(group=LAB, metavar="N", help="Instead: N random clusters, random flows through each, by --seed.")
    ] = 0,
    policies: Annotated[
        bool,
        Parameter(
            group=LAB, negative=(), help="The random clusters have network policies (and Calico, or what --cni says of its like)."
        ),
    ] = False,
    save: Annotated[
        Path | None, Parameter(group=LAB, metavar="DIR", help="With --policies: write clusters that show a disagreement there.")
    ] = None,
    rulesets: Annotated[
        Whole, Parameter(group=LAB, metavar="N", help="Instead: N random rulesets, 60 conversations through each.")
    ] = 0,
    nftables: Annotated[
        bool, Parameter(group=LAB, negative=(), help="The random rulesets are nft's own, not those of iptables.")
    ] = False,
    iptables: Iptables = None,
    kernel: Annotated[
        Literal["auto", "host", "uml", "none"],
        Parameter(
            group=LAB,
            help="The running kernel, user-mode Linux, auto: the latter where the former lacks something; or none, "
            "with --policies: send nothing, hold the rules against what the policies say.",
        ),
    ] = "auto",
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """Predict many flows, send them in a lab of their own, and print each on which netlab and Linux differ.

    Compared are the verdict, the endpoint, the source address that it saw, the kind of error and who sent it; for --rules flows
    also the rules of every node (with --iptables nft in the kernel's own order, with legacy by their counters), the devices
    crossed and the connections left behind. Three flows that fork are sent 300 times each, and how often each branch was
    taken is held against its probability (chi-squared, p > 1e-6). The exit code is 0 all agree, 1 some differ, 2 error.

    For example:
      netlab lab verify
      netlab lab verify -f cluster.json --flows 5000 --seed 7 --iptables nft
      netlab lab verify --random 100 --seed 1
      netlab lab verify --random 100 --cni calico
      netlab lab verify --random 200 --policies --flows 100 --rules 0
      netlab lab verify --random 200 --policies --kernel none
      netlab lab verify --rulesets 50 --seed 1 --iptables nft
      netlab lab verify --rulesets 50 --seed 1 --nftables
    """
    from netlab.lab import verify as comparing
    from netlab.lab.frequencies import choosing, frequencies
    from netlab.lab.host import Lab, require
    from netlab.lab.plan import make_plan
    from netlab.lab.rulepath import verify_paths
    from netlab.trace import flows as drawing

    if (flows is not None and flows < 1) or rules < 0:
        raise InputError("--flows must be at least 1, --rules at least 0")
    if policies and not random:
        raise InputError("--policies goes with --random", hint="netlab lab verify --random 50 --policies")
    if kernel == "none":
        if not policies or rulesets:
            raise InputError("--kernel none goes with --random N --policies: all else is compared with a kernel")
        return _random_policies(cluster, random, seed, flows, save)
    per_cluster = 60 if flows is None else flows
    if iptables == "nft" and rules:
        require("nft", "the kernel's trace of rules")
    if random and cluster.cni == "calico-ipip" and not (rulesets or cluster.filename or cluster.observed):
        from netlab.lab import umlchoice, umllab

        if umlchoice.choose_kernel({"ipip"}, kernel).kernel == "uml":
            asked = _random_arguments(random, per_cluster, policies, seed, rules, iptables or "legacy") + _arguments(cluster)
            return umllab.once(asked, (sys.stdout.buffer, sys.stderr.buffer), stdin=None, modules=umlchoice.modules({"ipip"}))
    if random or rulesets:
        if cluster.filename or cluster.observed:
            raise InputError("--random and --rulesets make their own clusters and rules", hint="leave out -f and --observed")
        if kernel == "uml":
            return _random_in_uml(cluster, random, per_cluster, policies, rulesets, seed, rules, iptables or "legacy")
        variant = iptables or ("nft" if random and cluster.proxy_mode == "nftables" else "legacy")
        return _verify_random(cluster, random, per_cluster, policies, rulesets, seed, rules, variant, nftables, save)
    flows = 500 if flows is None else flows
    if nftables:
        raise InputError("--nftables goes with --rulesets", hint="netlab lab verify --rulesets 50 --nftables")
    stdin = sys.stdin.read() if "-" in cluster.filename else None
    declared, tracer, network = _open(cluster, stdin)
    iptables = _variant(iptables, network)
    plan = make_plan(network, variant=iptables)
    for text in plan.notes:
        note(cluster, text)
    chosen, modules = _kernel(cluster, network, iptables, kernel)
    if chosen == "uml":
        from netlab.lab import umllab

        inside = ["lab", "verify", "--flows", str(flows), "--seed", str(seed), "--rules", str(rules), "--iptables", iptables]
        inside += ["--kernel", "host", *_arguments(cluster)]
        return umllab.once(inside, (sys.stdout.buffer, sys.stderr.buffer), stdin=stdin, modules=modules)
    wanted = drawing.flows(declared, network, flows, seed)
    with Lab.start(plan) as connection:
        report = comparing.verify(tracer, connection, wanted, progress=progress(cluster, len(wanted), "flows sent"))
        emit("".join(f"{difference}\n\n" for difference in report.disagreements) + report.summary)
        counted = verify_paths(
            tracer,
            network,
            connection,
            wanted[:rules],
            iptables,
            progress=progress(cluster, min(rules, len(wanted)), "flows counted"),
        )
        emit("".join(f"{difference}\n\n" for difference in counted.disagreements) + counted.summary)
        many = drawing.flows(declared, network, max(flows, 300), seed)
        chances = frequencies(connection, choosing(tracer, many, most=3))
        for chance in chances:
            emit(str(chance))
    return 1 if report.disagreements or counted.disagreements or not all(chance.fits for chance in chances) else 0


def _random_arguments(random: int, flows: int, policies: bool, seed: int, rules: int, iptables: str) -> list[str]:
    """The command for random clusters as it runs inside user-mode Linux, but for the flags of clusters."""
    made = ["lab", "verify", "--random", str(random), "--flows", str(flows), "--seed", str(seed), "--rules", str(rules)]
    return [*made, *(["--policies"] if policies else []), "--iptables", iptables, "--kernel", "host"]


def _random_in_uml(
    flags: ClusterFlags, random: int, flows: int, policies: bool, rulesets: int, seed: int, rules: int, iptables: str
) -> int:
    """The same command in user-mode Linux: with SCTP, and with iptables-legacy alone."""
    from netlab.lab import umllab
    from netlab.lab.umlchoice import choose_kernel, modules

    if rulesets:
        raise InputError("--rulesets runs on the running kernel", hint="leave out --kernel uml")
    needs = frozenset({"veth", "bridge", "br_netfilter", "vxlan", "IPv6", f"iptables-{iptables}"})
    if flags.proxy_mode == "ipvs":
        needs |= {"IPVS", "dummy", "ipset"}
    note(flags, f"in user-mode Linux: {choose_kernel(needs, 'uml').reason}")
    inside = _random_arguments(random, flows, policies, seed, rules, iptables) + _arguments(flags)
    return umllab.once(inside, (sys.stdout.buffer, sys.stderr.buffer), stdin=None, modules=modules(needs))


def _random_policies(flags: ClusterFlags, random: int, seed: int, flows: int | None, save: Path | None) -> int:
    """Rules against policies in random clusters, without a kernel."""
    from netlab.lab.random_clusters import compare_policies

    show = progress(flags, random, "clusters")
    cni = _policed(flags)
    found = compare_policies(random, seed, flows=60 if flows is None else flows, cni=cni, progress=lambda done, _: show(done))
    emit("".join(f"{difference}\n\n" for difference in found.disagreements) + found.summary)
    _save(found, save, cni)
    return 1 if found.disagreements else 0


def _save(found: RandomReport, folder: Path | None, cni: str) -> None:
    from netlab.lab.random_clusters import save_cases

    for path in save_cases(found, folder, cni) if folder is not None else ():
        emit(f"written: {path}")


def _policed(flags: ClusterFlags) -> str:
    """The network of random clusters with policies: one whose policies are enforced."""
    from netlab.lab.random_clusters import POLICED

    cni = flags.cni or "calico"
    if cni not in POLICED:
        raise InputError(f"--policies --cni {cni}: {cni} enforces none", hint="one of " + ", ".join(POLICED))
    return cni


def _verify_random(
    flags: ClusterFlags,
    random: int,
    flows: int,
    policies: bool,
    rulesets: int,
    seed: int,
    rules: int,
    iptables: str,
    nftables: bool,
    save: Path | None = None,
) -> int:
    """Random clusters, then random rulesets; the exit code is 1 if Linux disagrees with netlab on any packet."""
    if random < 0 or rulesets < 0:
        raise InputError("--random and --rulesets must be at least 0")
    failed = False
    if random:
        from netlab.lab.random_clusters import NETWORKS, verify_random

        show = progress(flags, random, "clusters")
        if flags.cni is not None and flags.cni not in NETWORKS:
            raise InputError(f'--random --cni {flags.cni}: random clusters have none such', hint="one of " + ", ".join(NETWORKS))
        found = verify_random(
            random,
            seed,
            flows=flows,
            rules=min(rules, 8),
            variant=iptables,
            mode=flags.proxy_mode,
            cni=_policed(flags) if policies else flags.cni,
            policies=policies,
            progress=lambda done, _: show(done),
        )
        emit("".join(f"{difference}\n\n" for difference in found.disagreements) + found.summary)
        if policies:
            _save(found, save, _policed(flags))
        failed = bool(found.disagreements)
    if rulesets:
        from netlab.lab.fuzz_rules import fuzz_rulesets

        show = progress(flags, rulesets, "rulesets")
        variant = "nftables" if nftables else iptables
        report = fuzz_rulesets(rulesets, seed, variant, progress=lambda report: show(report.rulesets))
        emit("".join(f"{difference}\n\n" for difference in report.disagreements) + report.summary())
        failed = failed or bool(report.disagreements)
    return 1 if failed else 0


@lab.command(sort_key=4)
def status(
    *,
    output: Annotated[Literal["text", "json", "name"], Parameter(alias="-o", group=OUTPUT)] = "text",
    quiet: Annotated[bool, Parameter(alias="-q", negative=(), group=OUTPUT, help="No notes on stderr.")] = False,
) -> int:
    """The labs that are up."""
    from netlab.lab import running
    from netlab.render.columns import table

    found = running.labs()
    if output == "json":
        keys = ("name", "pid", "started", "iptables", "uml", "files", "spaces", "notes")
        emit(json.dumps([{key: getattr(d, key) for key in keys} for d in found], indent=2))
    elif output == "name":
        emit("\n".join(d.name for d in found))
    elif found:
        head = ("NAME", "NODES", "PODS", "IPTABLES", "KERNEL", "PID", "AGE", "FILES")
        rows = [
            (d.name, *_counts(d), d.iptables, "uml" if d.uml else "host", str(d.pid), _age(d.started), " ".join(d.files) or "-")
            for d in found
        ]
        emit("\n".join(table([head, *rows])))
    elif not quiet:
        print("netlab: no lab is up", file=sys.stderr)
    return 0


@lab.command(sort_key=5)
def down(
    *,
    name: Name = "lab",
    everything: Annotated[bool, Parameter(name="--all", negative=(), group=LAB, help="All labs that are up.")] = False,
) -> int:
    """End a lab: its processes, namespaces and all that is in them."""
    from netlab.lab import running

    for found in running.labs() if everything else [running.find(name)]:
        if found.uml:
            from netlab.lab import umllab

            umllab.down(found)
        else:
            running.down(found)
        emit(f"lab {found.name} is down")
    return 0


# -- what the commands share -------------------------------------------------------------------------------------------


def _open(cluster: ClusterFlags, stdin: str | None) -> tuple[Cluster, Tracer, Network]:
    """The cluster, its tracer, and the network that the lab stands up."""
    from netlab.lab.verify import lab_network

    if stdin is not None:
        import io

        kept, sys.stdin = sys.stdin, io.StringIO(stdin)
        try:
            declared, tracer = open_tracer(cluster)
        finally:
            sys.stdin = kept
    else:
        declared, tracer = open_tracer(cluster)
    return declared, tracer, lab_network(declared, tracer.network)


def _learned(declared: Cluster, network: Network, made: Description) -> str:
    """Wait for BIRD, and say how its routes compare with the computed ones."""
    from netlab.lab import bird, running

    with running.connect(made) as connection:
        found = bird.compare(connection, network, list(bird.configurations(declared)))
    if found.differences:
        shown = "".join(f"    {line}\n" for line in found.differences)
        return f"  BIRD: {found.equal} routes as computed, {len(found.differences)} otherwise\n{shown}"
    return f"  BIRD: {found.equal} routes installed, all as computed, after {found.seconds:.1f} s\n"


def _digest(network: Network, iptables: str) -> str:
    from hashlib import sha256

    from netlab.lab.plan import make_plan

    return sha256(str(make_plan(network, variant=iptables)).encode()).hexdigest()


def _variant(asked: Literal["legacy", "nft"] | None, network: Network) -> Literal["legacy", "nft"]:
    """Which iptables loads the rules: with nftables' own rules beside them the one whose kernel shows both, in order."""
    native = any(ruleset.nft_tables for space in network.namespaces.values() for ruleset in space.rulesets.values())
    return asked or ("nft" if native else "legacy")


def _kernel(cluster: ClusterFlags, network: Network, iptables: str, wanted: str) -> tuple[str, tuple[str, ...]]:
    """Which kernel performs the network, said on stderr, and the modules that it has to load."""
    from netlab.lab.umlchoice import choose_kernel, modules, requirements, unsent

    needs = requirements(network, iptables)
    choice = choose_kernel(needs, wanted)
    if choice.kernel == "uml":
        note(cluster, f"in user-mode Linux: {choice.reason}")
    elif wanted == "auto":
        but = unsent(network)
        note(cluster, f"on the running kernel: {choice.reason}" + (f" but {but}; --kernel uml has it" if but else ""))
    return choice.kernel, modules(needs)


def _inside(found: Description, arguments: list[str]) -> int:
    """The same command where the lab is; what standard input holds goes with it, unless that is a terminal."""
    from netlab.lab import umllab

    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    sys.stdout.flush()
    return umllab.perform(found, ["lab", *arguments], (sys.stdout.buffer, sys.stderr.buffer), stdin=stdin)


def _arguments(cluster: ClusterFlags) -> list[str]:
    """Cluster flags as they are typed; quiet, for its notes have been said."""
    found = ["-q", "-n", cluster.namespace]
    for file in cluster.filename:
        found += ["-f", file]
    for pair in cluster.observed:
        found += ["--observed", pair]
    for key in _OVERRIDES:
        if (value := getattr(cluster, key)) is not None:
            found += [f"--{key.replace('_', '-')}", value]
    return found


_OVERRIDES = ("cni", "proxy_mode", "kube_proxy_version", "cluster_cidr", "service_cidr")


def _overrides(cluster: ClusterFlags) -> dict[str, str]:
    found = {key: value for key in _OVERRIDES if (value := getattr(cluster, key)) is not None}
    if cluster.observed:
        found["observed"] = "\n".join(cluster.observed)
    return found


def _as_flags(description: Description, namespace: str) -> ClusterFlags:
    """The flags that the lab was made with."""
    given = description.flags
    return ClusterFlags(
        filename=description.files,
        namespace=namespace,
        observed=tuple(given["observed"].split("\n")) if "observed" in given else (),
        cni=given.get("cni"),
        proxy_mode=given.get("proxy_mode"),
        kube_proxy_version=given.get("kube_proxy_version"),
        cluster_cidr=given.get("cluster_cidr"),
        service_cidr=given.get("service_cidr"),
        quiet=True,
    )


def _counts(description: Description) -> tuple[str, str]:
    from netlab.linux.netns import NetnsKind

    return str(description.count(NetnsKind.NODE)), str(description.count(NetnsKind.POD))


def _inventory(description: Description) -> str:
    nodes, pods = _counts(description)
    return f"{nodes} nodes, {pods} pods and the outside, iptables-{description.iptables}"


def _namespace(pod: str) -> str:
    space = pod.partition("/")[0]
    return "" if space == "default" else f" -n {space}"


def _age(started: float) -> str:
    seconds = max(0, int(time.time() - started))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    return f"{seconds // 3600}h" if seconds < 172800 else f"{seconds // 86400}d"
