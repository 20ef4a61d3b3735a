"""The topologies that come with netlab: what a command without -f reads.

Law: works from a checkout and from an installed wheel, without importing anything heavy. The files are ordinary input;
nothing here reads them.
"""

from __future__ import annotations

from pathlib import Path

import netlab

DEFAULT = "flannel-vxlan.yaml"


def path_of_default() -> Path:
    """The file of the embedded default topology.

    An installed wheel carries the folder as ``netlab/_topologies``; in a checkout it stands beside the package.
    """
    return folder() / DEFAULT


def folder() -> Path:
    """The folder of the embedded topologies; raises FileNotFoundError where the installation lacks it."""
    package = Path(netlab.__file__).resolve().parent
    for found in (package / "_topologies", package.parent / "topologies"):
        if (found / DEFAULT).is_file():
            return found
    raise FileNotFoundError(f"{package / '_topologies'} is missing: install netlab-k8s again")
