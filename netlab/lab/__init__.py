"""The lab: a linux.Network performed by a real kernel, in private namespaces, and compared with what netlab predicts."""
