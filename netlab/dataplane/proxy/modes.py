"""What upstream says of kube-proxy's modes, in one line each; docs/modes.md tells the whole story.

Law: facts with the release that made them true; nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping

UPSTREAM: Mapping[str, str] = {
    "iptables": "the default where no mode is given (since v1.2); upstream means to make nftables the default",
    "nftables": "stable since v1.33 (KEP-3866), meant to become the default instead of iptables",
    "ipvs": "deprecated since v1.35 (KEP-5495)",
    "userspace": "removed in v1.26, the first mode there was",
}
