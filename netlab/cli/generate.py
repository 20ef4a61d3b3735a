"""`netlab generate`: a cluster of any size, made up, as a List that every command reads."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from netlab.cli.flags import OUTPUT, Whole

SIZE = Group("Size", sort_key=0)


def generate(
    *,
    pods: Annotated[Whole, Parameter(group=SIZE, metavar="N", help="Pods.")] = 100,
    services: Annotated[
        Whole | None, Parameter(group=SIZE, metavar="N", help="Services, with EndpointSlices; without it one for 15 pods.")
    ] = None,
    policies: Annotated[
        Whole | None,
        Parameter(group=SIZE, metavar="N", help="NetworkPolicies; without it 2.5 a pod (realistic), or 0.6 (uniform)."),
    ] = None,
    nodes: Annotated[Whole | None, Parameter(group=SIZE, metavar="N", help="Nodes; without it one for 30 pods.")] = None,
    shape: Annotated[
        Literal["realistic", "uniform"],
        Parameter(
            group=SIZE,
            help="realistic: namespaces, selectors and peers in the proportions of a survey of production clusters; uniform: "
            "workloads of five pods, all alike.",
        ),
    ] = "realistic",
    seed: Annotated[Whole, Parameter(group=SIZE, metavar="N", help="Another cluster of the same size.")] = 0,
    cni: Annotated[str, Parameter(group=SIZE, metavar="NAME", help="flannel, calico, canal or none.")] = "calico",
    output: Annotated[
        Literal["json", "yaml"], Parameter(alias="-o", group=OUTPUT, help="json is read back ten times as fast.")
    ] = "json",
) -> int:
    """A made-up cluster of any size, to try things on.

    The same numbers and seed print the same bytes, with everything stated: nodes, addresses, endpoints.

    For example:
      netlab generate --pods 1000 --policies 600 > cluster.json && netlab reach -f cluster.json --namespaces
      netlab generate --pods 30 --shape uniform --cni flannel -o yaml
      netlab generate --pods 5413 --services 361 --policies 13678 --seed 7 | netlab reach -f - -o csv
    """
    from netlab.kube.generate import Wanted
    from netlab.kube.generate import generate as documents

    made = documents(Wanted(pods, services, policies, nodes, shape, seed, cni))
    if output == "yaml":
        import yaml

        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        yaml.dump_all(made, sys.stdout, Dumper=dumper, sort_keys=False, explicit_start=True)
        return 0
    import msgspec

    encode = msgspec.json.Encoder().encode
    write = sys.stdout.write
    write('{"apiVersion": "v1", "kind": "List", "items": [\n')
    for n, document in enumerate(made):
        write((",\n" if n else "") + encode(document).decode())
    write("\n]}\n")
    return 0
