"""`netlab snapshot`: what a node holds, into the files that `--observed` reads."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from netlab.cli.flags import emit
from netlab.errors import InputError


def snapshot(
    directory: Annotated[str | None, Parameter(name="DIR", help="Where to write; made if need be.")] = None,
    /,
    *,
    node: Annotated[
        str | None, Parameter(metavar="NODE", help="A node of a lab that is up, in place of this machine (`netlab lab up`).")
    ] = None,
    name: Annotated[str | None, Parameter(metavar="NAME", help="With --node: which lab.")] = None,
    force: Annotated[bool, Parameter(negative=(), help="Replace the snapshot that is in DIR.")] = False,
    script: Annotated[
        bool, Parameter(negative=(), help="Print the shell script that does it, for a node without netlab.")
    ] = False,
) -> int:
    """Write what a node holds into files that --observed reads.

    The node is this machine, or one of a lab that is up (--node). A script does it, with what a node has anyway: ip, bridge,
    iptables-save, ipset, nft, ipvsadm, sysctl. A tool that is missing is named, and costs its own files only. The exit code
    is 0 done, 1 a tool failed (the other files are there), 2 error.

    For example, on a node and back at the desk:
      sudo netlab snapshot dumps/node-1
      netlab snapshot --script | ssh node-1 sudo sh -s -- snapshot
      netlab snapshot dumps/node-1 --node node-1
      netlab trace web-0 svc/api -f cluster.json --observed node-1=dumps/node-1
    """
    from netlab.lab import snapshot as lab

    if script:
        if directory is not None or force or node is not None or name is not None:
            raise InputError("--script prints the script and takes nothing else", hint="netlab snapshot --script > snapshot.sh")
        emit(lab.script())
        return 0
    if directory is None:
        raise InputError("which directory?", hint="netlab snapshot DIR writes there; netlab snapshot --script prints a script")
    if name is not None and node is None:
        raise InputError("--name says which lab, and nothing says which node of it", hint="add --node NODE")
    sys.stdout.flush()
    if node is not None:
        return lab.take_from_lab(node, directory, name=name, force=force)
    return lab.take(directory, force=force)
