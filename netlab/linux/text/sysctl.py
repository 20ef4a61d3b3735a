"""What `sysctl net` prints: names and values of /proc/sys/net, those that netlab's model reads.

    net.ipv4.conf.flannel/1.rp_filter = 0

Law: names are kept as `Netns.sysctls` has them, without "net." and with the dots of device names, which sysctl(8) prints as
slashes. Thousands of others (buffers, timers, other protocols) are passed over; a line that is none is an InputError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from netlab.errors import InputError
from netlab.refs import Ref

# What decides where packets go: linux/route.py, linux/bridge.py and trace/ read them.
_READ = re.compile(
    r"ipv4\.ip_forward"
    r"|ipv4\.conf\..+\.(?:forwarding|rp_filter|accept_local|route_localnet|proxy_arp|src_valid_mark)"
    r"|ipv4\.conf\..+\.(?:arp_ignore|arp_announce)"
    r"|ipv4\.vs\.(?!sync_threshold)[a-z_]+"
    r"|ipv6\.conf\..+\.forwarding"
    r"|bridge\.bridge-nf-call-(?:ip|ip6|arp)tables"
)
_NUMBER = re.compile("-?[0-9]{1,10}")
_WHOLE = "core."  # net.core.* is in every namespace and of no use to the model: who has it has dumped all of net

_HINT = 'save it with "sysctl net > sysctl"'


class Sysctls(msgspec.Struct, frozen=True):
    """The values, and whether the text is a dump of all of net: what it lacks then does not exist on the node."""

    values: Mapping[str, int]
    whole: bool


def parse(text: str, file: str) -> Sysctls:
    """Read `sysctl net`, `sysctl -a`, or a part of one (`sysctl -a | grep rp_filter`).

    Parameters
    ----------
    text : str
        Lines of "NAME = VALUE"; a name that is there twice has its last value.
    file : str
        Where the text is from, for errors.

    Returns
    -------
    Sysctls
        Values of the names that netlab reads.

    Raises
    ------
    InputError
        A line that is not "NAME = VALUE", a value that is no number where the kernel has numbers, or nothing of net at all.

    Examples
    --------
    >>> parse("net.ipv4.ip_forward = 1\\nnet.ipv4.conf.flannel/1.rp_filter = 0\\n", "sysctl").values
    {'ipv4.ip_forward': 1, 'ipv4.conf.flannel.1.rp_filter': 0}
    """
    values: dict[str, int] = {}
    whole = seen = False
    for number, line in enumerate(text.split("\n"), 1):
        name, equals, value = line.partition("=")
        name = name.strip()
        if not line.strip():
            continue
        if not equals or not name or " " in name:
            raise InputError(f'"{line.strip()[:80]}" is not "NAME = VALUE"', Ref(file=file, line=number), _HINT)
        name = name.replace("/", ".")  # sysctl(8): either separates
        if not name.startswith("net."):
            continue
        seen = True
        name = name[4:]
        if name.startswith(_WHOLE):
            whole = True
        elif _READ.fullmatch(name):
            value = value.strip()
            if not _NUMBER.fullmatch(value):
                raise InputError(f'net.{name} is "{value[:80]}", not a number', Ref(file=file, line=number), _HINT)
            values[name] = int(value)
    if not seen:
        raise InputError("has no value of net", Ref(file=file), _HINT)
    return Sysctls(values, whole)
