"""netlab: where does this packet go in a Kubernetes cluster, which rule decides, and is that what Linux does?

This package imports nothing when it is imported: every stage is a module of its own, loaded by the command
that needs it, so that ``netlab --version`` stays quick.
"""

__version__ = "0.1.0"
