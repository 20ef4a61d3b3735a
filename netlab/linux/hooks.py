"""Netfilter's traversal as ONE literal table: what happens to an IP packet at each hook, in order of priority.

    wire -> PREROUTING -> (route) -> INPUT -> socket            socket -> (route) -> OUTPUT -> POSTROUTING -> wire
                             \\-> FORWARD -> POSTROUTING -> wire

Law: the walker interprets this table and knows no order of its own. Priorities: include/uapi/linux/netfilter_ipv4.h.
Base chains of a ruleset run at their own (hook, priority), wherever that is between the functions of the kernel below.
"""

from __future__ import annotations

import enum

from netlab.linux.rules import Hook


class Function(enum.Enum):
    """What the kernel itself does at a hook, between the chains."""

    CONNTRACK = "conntrack"  # nf_conntrack_in: find or make the connection
    NAT_DST = "nat-dst"  # nf_nat: apply or decide the destination manipulation
    NAT_SRC = "nat-src"  # nf_nat: apply or decide the source manipulation
    CONFIRM = "confirm"  # nf_confirm: the connection enters the table
    IPVS_REPLY = "ipvs-reply"  # ip_vs_out: what a real server says comes from the virtual service
    IPVS_REQUEST = "ipvs-request"  # ip_vs_in: what is said to a virtual service goes to a real server
    IPVS_ICMP = "ipvs-icmp"  # ip_vs_forward_icmp: errors about replies


RAW_BEFORE_DEFRAG, RAW, CONNTRACK, MANGLE, NAT_DST, FILTER, SECURITY, NAT_SRC = -450, -300, -200, -150, -100, 0, 50, 100
LAST = 2**31 - 1

KERNEL_FUNCTIONS: dict[Hook, tuple[tuple[int, Function], ...]] = {
    Hook.PREROUTING: ((CONNTRACK, Function.CONNTRACK), (NAT_DST, Function.NAT_DST)),
    Hook.INPUT: ((NAT_SRC, Function.NAT_SRC), (LAST, Function.CONFIRM)),
    Hook.FORWARD: (),
    Hook.OUTPUT: ((CONNTRACK, Function.CONNTRACK), (NAT_DST, Function.NAT_DST)),
    Hook.POSTROUTING: ((NAT_SRC, Function.NAT_SRC), (LAST, Function.CONFIRM)),
}

# net/netfilter/ipvs/ip_vs_core.c ip_vs_ops4, ip_vs_ops6: registered with the first virtual service of a family
IPVS_FUNCTIONS: dict[Hook, tuple[tuple[int, Function], ...]] = {
    Hook.PREROUTING: (),
    Hook.INPUT: ((NAT_SRC - 2, Function.IPVS_REPLY), (NAT_SRC - 1, Function.IPVS_REQUEST)),
    Hook.FORWARD: ((99, Function.IPVS_ICMP), (100, Function.IPVS_REPLY)),
    Hook.OUTPUT: ((NAT_DST + 1, Function.IPVS_REPLY), (NAT_DST + 2, Function.IPVS_REQUEST)),
    Hook.POSTROUTING: (),
}

IPTABLES_TABLES: dict[str, dict[Hook, int]] = {
    "raw": {Hook.PREROUTING: RAW, Hook.OUTPUT: RAW},
    "mangle": dict.fromkeys(Hook, MANGLE),
    "nat": {Hook.PREROUTING: NAT_DST, Hook.INPUT: NAT_SRC, Hook.OUTPUT: NAT_DST, Hook.POSTROUTING: NAT_SRC},
    "filter": {Hook.INPUT: FILTER, Hook.FORWARD: FILTER, Hook.OUTPUT: FILTER},
    "security": {Hook.INPUT: SECURITY, Hook.FORWARD: SECURITY, Hook.OUTPUT: SECURITY},
}
