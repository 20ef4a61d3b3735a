"""What is served: the documents read at the start, and tracers for the clusters that clients make of them.

    documents (read once) --settings, edit, removals--> Cluster --> Tracer         kept while they are asked for

Law: a client sends all that differs with each question and nothing is kept for it, so that two pages never meet. No client
names a file: an edit is text. A tracer is asked by one thread at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import msgspec
from msgspec.structs import replace

from netlab.kube.cluster import Cluster
from netlab.kube.documents import Document
from netlab.kube.load import load_changed
from netlab.kube.topology import Overrides
from netlab.linux.network import Network
from netlab.trace.query import Request, Tracer
from netlab.trace.steps import Trace

KEPT = 6  # tracers: what one person goes to and fro between


class Setting(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """How the served cluster is changed for one question.

    `proxyMode`, `cni`: instead of the cluster's own; `changes`: objects as YAML or JSON, applied as `netlab diff --with` would;
    `without`: objects taken out, each [NAMESPACE/]KIND/NAME.
    """

    proxy_mode: str | None = None
    cni: str | None = None
    changes: str = ""
    without: tuple[str, ...] = ()


class Served:
    """A cluster's documents, and the tracers made of them.

    Parameters
    ----------
    documents : sequence of Document
    paths : sequence of str
        Where they were read.
    overrides : Overrides
        What the command line says; a Setting wins over it.
    """

    def __init__(self, documents: Sequence[Document], paths: Sequence[str], overrides: Overrides) -> None:
        self.documents, self.paths, self.overrides = tuple(documents), tuple(paths), overrides
        self._lock = Lock()
        self._known: OrderedDict[Setting, tuple[Tracer, Lock]] = OrderedDict()

    def cluster(self, setting: Setting) -> Cluster:
        """The cluster with a setting; raises InputError where the edit is none."""
        return self._tracer(setting)[0].cluster

    def own_tracer(self, setting: Setting) -> Tracer:
        """A tracer that nobody else asks: for long work."""
        return Tracer(self.cluster(setting))

    def trace(self, setting: Setting, request: Request) -> tuple[Trace, Network]:
        """Answer one question, with the network that was walked; raises InputError as `Tracer.trace` does."""
        tracer, lock = self._tracer(setting)
        with lock:
            return tracer.traced(request)

    def _tracer(self, setting: Setting) -> tuple[Tracer, Lock]:
        with self._lock:
            found = self._known.get(setting)
            if found is None:
                found = self._known[setting] = Tracer(self._made(setting)), Lock()
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
            self._known.move_to_end(setting)
            return found

    def _made(self, setting: Setting) -> Cluster:
        over = self.overrides
        if setting.proxy_mode is not None:
            over = replace(over, proxy_mode=setting.proxy_mode)
        if setting.cni is not None:
            over = replace(over, cni=setting.cni)
        return load_changed(self.documents, self.paths, setting.changes, setting.without, over)
