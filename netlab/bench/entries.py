"""How many bytes a rule of iptables-legacy has in the kernel: an ipt_entry, its matches, its target, one behind the other.

Law: sizes are those of the 64-bit kernel's structs, in the revisions that iptables 1.8 takes; what has no size here makes the
whole unknown (None), never too small. Sources: include/uapi/linux/netfilter/x_tables.h, xt_*.h, netfilter_ipv4/ip_tables.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netlab.linux import matches as m
from netlab.linux import targets as t
from netlab.linux.rules import Rule, Table

ENTRY: Final = 112  # struct ipt_entry: the header's fields, offsets, counters
HEAD: Final = 32  # struct xt_entry_match, struct xt_entry_target: name, revision, size
_ERROR: Final = 64  # struct xt_error_target: begins every chain of one's own and ends the table, with a name
_STANDARD: Final = 8  # struct xt_standard_target: the verdict

_MATCHES: Final[Mapping[type, int]] = {
    m.Source: -HEAD,  # in the entry itself
    m.Destination: -HEAD,
    m.InInterface: -HEAD,
    m.OutInterface: -HEAD,
    m.Protocol: -HEAD,
    m.Fragment: -HEAD,
    m.Comment: 256,  # xt_comment_info
    m.Tcp: 16,
    m.Udp: 16,
    m.Conntrack: 168,  # xt_conntrack_mtinfo3
    m.Mark: 16,  # xt_mark_mtinfo1
    m.Statistic: 24,
    m.Addrtype: 8,  # xt_addrtype_info_v1
    m.SetMatch: 48,  # xt_set_info_match_v4
    m.Multiport: 48,  # xt_multiport_v1
    m.Rpfilter: 8,  # xt_rpfilter_info
    m.Recent: 232,  # xt_recent_mtinfo_v1
}
_TARGETS: Final[Mapping[type, int]] = {
    type(None): _STANDARD,
    t.Accept: _STANDARD,
    t.Drop: _STANDARD,
    t.Return: _STANDARD,
    t.Jump: _STANDARD,
    t.Dnat: 48,  # nf_nat_range2
    t.Masquerade: 24,  # nf_nat_ipv4_multi_range_compat
    t.SetMark: 8,  # xt_mark_tginfo2
    t.Reject: 8,
}


def entry_bytes(rule: Rule) -> int | None:
    """Bytes of a rule's entry; None where it has a match or target whose size is not known here.

    >>> entry_bytes(Rule((m.Comment("a text of any length"),), t.Accept()))
    440
    """
    if type(rule.target) not in _TARGETS or any(type(match) not in _MATCHES for match in rule.matches):
        return None
    return ENTRY + HEAD + _TARGETS[type(rule.target)] + sum(HEAD + _MATCHES[type(match)] for match in rule.matches)


def table_bytes(table: Table) -> int | None:
    """Bytes of a whole table, as the kernel tells them (IPT_SO_GET_INFO): rules, the beginnings and ends of chains.

    Every chain ends in an entry, its policy or a RETURN; a chain of one's own begins with one that carries its name.
    """
    total = ENTRY + _ERROR
    for chain in table.chains.values():
        total += ENTRY + HEAD + _STANDARD + (ENTRY + _ERROR if chain.hook is None else 0)
        for rule in chain.rules:
            size = entry_bytes(rule)
            if size is None:
                return None
            total += size
    return total
