"""A cluster to try things on, as a lesson sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netlab.kube.documents import read_documents
from netlab.kube.embedded import folder
from netlab.kube.load import load_changed
from netlab.kube.topology import Overrides
from netlab.linux.network import Network
from netlab.render.html import document, module
from netlab.render.page import page, to_json
from netlab.render.text import render
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Branch, Trace


class Told:
    """A trace, to read and to look at."""

    def __init__(self, trace: Trace, network: Network) -> None:
        self.trace, self.network = trace, network

    @property
    def verdict(self) -> str:
        """delivered, dropped, rejected, partial or unknown."""
        return self.trace.verdict.value

    @property
    def text(self) -> str:
        """As `netlab trace` prints it."""
        return render(self.trace)

    @property
    def reason(self) -> str:
        """Why it is not delivered, "" where it is."""
        return next((branch.reason for branch in self.trace.branches if branch.reason), "")

    def branch(self, endpoint: str) -> Branch:
        """The branch that ends at a pod, by its name without the namespace."""
        return next(b for b in self.trace.branches if (b.endpoint_name or "").rpartition("/")[2] == endpoint)

    def steps(self, kind: type[Any]) -> list[Any]:
        """The steps of one kind in the first branch's request."""
        return [step for hop in self.trace.branches[0].hops for step in hop.steps if isinstance(step, kind)]

    def html(self) -> str:
        """The page, one whole document."""
        made = page(self.trace, self.network)
        return document(to_json(made), made.title, made.summary)

    def page(self, height: int = 760) -> Any:
        """The page for a marimo notebook: a frame of its own, from which nothing gets out."""
        import marimo

        return marimo.iframe(self.html(), height=f"{height}px")

    def widget(self) -> Any:
        """The page as an anywidget, for Jupyter and marimo: `widget.at` follows the step that is shown."""
        import anywidget
        import msgspec
        import traitlets

        from netlab.render.html import style

        traits = {"page": traitlets.Dict({}).tag(sync=True), "at": traitlets.Dict({}).tag(sync=True)}
        journey: Any = type("Journey", (anywidget.AnyWidget,), {"_esm": module(), "_css": style(), **traits})
        return journey(page=msgspec.json.decode(to_json(page(self.trace, self.network))))


class Classroom:
    """A cluster, asked as often as one likes."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer

    def trace(
        self, source: str, destination: str, protocol: str | None = None, at: str | None = None, size: int | None = None
    ) -> Told:
        """Send a packet; raises InputError as `netlab trace`."""
        return Told(*self.tracer.traced(Request(source, destination, protocol, at=at, size=size)))


def classroom(
    topology: str = "flannel-vxlan.yaml",
    add: str = "",
    without: Sequence[str] = (),
    cni: str | None = None,
    mode: str | None = None,
) -> Classroom:
    """A cluster that netlab carries, with changes.

    Parameters
    ----------
    topology : str
        A file of topologies/.
    add : str
        Objects as YAML, applied to it.
    without : sequence of str
        Objects taken out, each `[NAMESPACE/]KIND/NAME`.
    cni, mode : str, optional
        Another CNI plug-in, another mode of kube-proxy.
    """
    path = str(folder() / topology)
    overrides = Overrides(cni=cni, proxy_mode=mode)
    return Classroom(Tracer(load_changed(list(read_documents([path])), [path], add, without, overrides)))
