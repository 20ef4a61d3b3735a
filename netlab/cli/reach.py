"""`netlab reach`: the connectivity matrix, and whether it is the one that was expected."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Group, Parameter

from netlab.cli.flags import OUTPUT, ClusterFlags, emit, note, open_cluster, open_tracer, progress
from netlab.errors import InputError

MATRIX = Group("Matrix", sort_key=0)


def reach(
    *names: Annotated[
        str,
        Parameter(
            help="SOURCES, or SOURCES to DESTINATIONS: workloads, pods, services, nodes, addresses, NAMESPACE/, internet; a "
            "destination with a port (api:9000) is asked there. All workloads and services if left out."
        ),
    ],
    pods: Annotated[bool, Parameter(negative=(), group=MATRIX, help="Each pod for itself instead of workloads.")] = False,
    namespaces: Annotated[bool, Parameter(negative=(), group=MATRIX, help="A row and column per namespace.")] = False,
    services: Annotated[bool, Parameter(group=MATRIX, help="Services, too, as destinations (through their endpoints).")] = True,
    all_pairs: Annotated[
        bool,
        Parameter(
            negative=(),
            group=MATRIX,
            help="What policies allow between every two pods on every port, counted: exact, and quick for any number of pods. "
            "As text or json.",
        ),
    ] = False,
    expect: Annotated[
        str | None,
        Parameter(group=MATRIX, metavar="FILE", help="An expected matrix, as -o csv or -o json prints it; exit 1 if it differs."),
    ] = None,
    output: Annotated[
        Literal["text", "wide", "json", "csv", "md", "dot", "svg", "html"],
        Parameter(alias="-o", group=OUTPUT, help="wide lists each answer that is not yes with its reason."),
    ] = "text",
    cluster: ClusterFlags = ClusterFlags(),
) -> int:
    """Who reaches whom, on every port that something listens on.

    A cell is yes where every pod of the source reaches every pod (or endpoint) of the destination and hears the reply, no where
    none does, "some" where they differ. `to` separates sources from destinations; svc/NAME there is the service itself.
    The exit code is 0; with --expect 1 where the matrix differs.

    For example:
      netlab reach
      netlab reach shop/ to shop/ -f cluster.json -o wide
      netlab reach deploy/front internet to deploy/api svc/api:80 db-0:5432 -f cluster.json
      netlab reach --all-pairs -f cluster.json
      netlab reach -f cluster.json -o csv > expected.csv && netlab reach -f cluster.json --expect expected.csv
    """
    if pods and namespaces:
        raise InputError("--pods and --namespaces exclude each other")
    if all_pairs:
        if names or expect is not None or pods or namespaces or not services:
            raise InputError("--all-pairs counts all pods: it goes with no names, grouping, --no-services or --expect")
        return _all_pairs(cluster, output)
    from netlab.reach import chosen
    from netlab.reach.matrix import Answer, matrix
    from netlab.reach.spread import processors
    from netlab.render import matrix as drawing

    declared, tracer = open_tracer(cluster)
    by = "pods" if pods else "namespaces" if namespaces else "workloads"
    from_names, to_names = _split(names)
    sources = chosen.sources(declared, from_names, cluster.namespace, by)
    columns = chosen.destinations(tracer, to_names, cluster.namespace, by, services)
    if not sources or not columns:
        note(cluster, "there is nothing to ask: no pods with an address" if not sources else "nothing listens on any port")
    told = progress(cluster, len(sources) * len(columns), "answers")
    found = matrix(tracer, sources, columns, told, processors(), alike=not cluster.observed)
    for row in found.cells:
        if row and all(cell.answer is Answer.NONE for cell in row) and row[0].source in from_names:
            raise InputError(row[0].reason, hint=f"`netlab can {row[0].source} ...` says more")
    if expect is None:
        emit(drawing.render(found, output))
        return 0
    from netlab.reach.expected import compare, read_expected

    differences = compare(found, read_expected(expect))
    if not differences:
        emit(f"{drawing.summary(found)}: as expected")
        return 0
    emit(drawing.different(differences))
    emit(f"\n{len(differences)} of {len(sources) * len(columns)} answers differ from {expect}")
    return 1


def _all_pairs(cluster: ClusterFlags, output: str) -> int:
    """What policies say to every two pods; routes and sockets are not asked."""
    if output not in ("text", "json"):
        raise InputError(f"--all-pairs has no -o {output}", hint="one of: text, json")
    if cluster.observed:
        raise InputError("--all-pairs asks policies: --observed has rules", hint="leave --observed out")
    from netlab.dataplane.policy.index import PolicyIndex
    from netlab.reach.allpairs import AllPairs
    from netlab.render import allpairs as drawing
    from netlab.trace.policysteps import dialect_of, enforces

    declared = open_cluster(cluster)
    index = PolicyIndex(declared, dialect_of(declared.cni.name))
    for text in index.notes:
        note(cluster, text)
    families = sorted({address.family for pod in index.pods for address in pod.ips}) or [4]
    found = []
    for family in families:
        found.append(AllPairs(index, family, lambda total: progress(cluster, total, "groups of pods")))
    enforced = [enforces(declared, family) for family in families]
    if output == "json":
        import msgspec

        emit(msgspec.json.format(msgspec.json.encode(drawing.to_builtins(found, enforced)), indent=2).decode())
    else:
        emit(drawing.text(found, enforced, declared.cni.name))
    return 0


def _split(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """`a b to c d`: sources and destinations."""
    if "to" not in names:
        return list(names), []
    at = names.index("to")
    if at == len(names) - 1:
        raise InputError('"to" without destinations', hint="name workloads, pods or NAMESPACE/ after it")
    return list(names[:at]), list(names[at + 1 :])
