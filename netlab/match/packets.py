"""Packets as a struct of arrays: one row of 32-bit numbers per field, one column per packet.

    Packets.columns: uint32[R, n]      row_of: int32[FIELDS], which row holds a field; row 0 is zeros, for all that are not given

Law: whatever a match may ask of a View has a field here, so that `view(i)` gives back what `Packets.of` was given (for
the matches). Addresses are four words, the lowest first; of IPv4 only that one is used. Devices are numbers of `Names`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from netlab.linux.addr import Ip
from netlab.linux.conntrack import Connection, CtState, CtView
from netlab.linux.netns import Netns
from netlab.linux.packet import ICMP, ICMPV6, SCTP, TCP, UDP, Flow, Packet
from netlab.linux.rules import Hook
from netlab.match.ipset import UDPLITE
from netlab.match.view import View, tuple_dport

U32 = 0xFFFFFFFF


class Field(enum.IntEnum):
    """The fields of a packet. An address stands for its lowest word; the three after it are the higher ones (IPv6)."""

    SRC = 0
    DST = 4
    ORIG_SRC = 8
    ORIG_DST = 12
    REPL_SRC = 16
    REPL_DST = 20
    PROTOCOL = 24
    SPORT = 25
    DPORT = 26
    ICMP = 27  # type << 8 | code
    ICMP_ID = 28
    TCP_FLAGS = 29
    TTL = 30
    LENGTH = 31
    MARK = 32
    FLAGS = 33  # of Flag
    INDEV = 34  # devices are numbers of Names; 0 is no device
    OUTDEV = 35
    PHYSIN = 36
    PHYSOUT = 37
    CTSTATE = 38  # 0 where conntrack has not seen the packet, else an index into CT_STATES
    CTFLAGS = 39  # of CtFlag
    CTMARK = 40
    CT_PROTOCOL = 41
    ORIG_SPORT = 42
    ORIG_DPORT = 43  # of ICMP the type in the high byte (tuple.dst.u.all)
    REPL_SPORT = 44
    REPL_DPORT = 45
    SET_SPORT = 46  # what ipset calls the port (ip_set_getport.c): made from the other fields
    SET_DPORT = 47
    SRC_MAC = 48  # the low 32 bits
    SRC_MAC_HIGH = 49
    DST_MAC = 50
    DST_MAC_HIGH = 51


FIELDS = 52
CT_STATES = (None, CtState.NEW, CtState.ESTABLISHED, CtState.RELATED, CtState.INVALID, CtState.UNTRACKED)
PORTS = (TCP, UDP, SCTP)
SET_PORTS = (*PORTS, UDPLITE)  # protocols of which ipset reads ports


class Flag(enum.IntFlag):
    """Bits of FLAGS."""

    SPORT_RANDOM = 1
    LOCAL = 2
    ICMP_ERROR = 4
    IPVS = 8
    SRC_MAC = 16  # the address is known
    DST_MAC = 32
    ATTACHED = 64


class CtFlag(enum.IntFlag):
    """Bits of CTFLAGS. All but the first are those of a connection."""

    CONNECTION = 1
    REPLY = 2
    SNAT = 4
    DNAT = 8
    SEEN_REPLY = 16
    ASSURED = 32
    CONFIRMED = 64
    RANDOM_PORT = 128
    SRC_DONE = 256
    DST_DONE = 512


class Names:
    """Numbers for the names of devices; they only grow, so that a number stays what it was."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names: list[str] = []
        self.number: dict[str, int] = {}
        self.add("")
        for name in names:
            self.add(name)

    def add(self, name: str) -> int:
        known = self.number.get(name)
        if known is None:
            known = self.number[name] = len(self.names)
            self.names.append(name)
        return known


class Packets:
    """A batch of packets of one family.

    Attributes
    ----------
    columns : uint32[R, n]
        Rows of fields; row 0 is zeros.
    row_of : int32[FIELDS]
        The row of each field.
    names : Names
        What the numbers of INDEV, OUTDEV, PHYSIN and PHYSOUT mean.
    single : dict
        Fields that are known to be the same in all packets, with their value; so are those without a row (0).
    """

    def __init__(
        self,
        family: int,
        fields: Mapping[int, NDArray[np.uint32]],
        count: int,
        names: Names,
        single: Mapping[int, int] | None = None,
    ) -> None:
        self.family, self.count, self.names, self.single = family, count, names, dict(single or {})
        self.row_of = np.zeros(FIELDS, np.int32)
        self.columns = np.zeros((len(fields) + 1, count), np.uint32)
        for row, (field, values) in enumerate(fields.items(), 1):
            self.row_of[field] = row
            self.columns[row] = values

    def __len__(self) -> int:
        return self.count

    def field(self, field: int) -> NDArray[np.uint32]:
        """The row of a field: uint32[n]."""
        row: NDArray[np.uint32] = self.columns[self.row_of[field]]
        return row

    @staticmethod
    def of_fields(family: int, names: Names, **fields: NDArray[np.uint32] | Sequence[int] | int) -> Packets:
        """A batch from arrays, by the names of Field in lower case; devices as names of `names`; numbers stand for all packets.

        TTL is 64 and LENGTH 60 unless they are given. An address of IPv6 is a number, or an array uint32[n, 4], the lowest word
        first.

        Raises
        ------
        ValueError
            There is no such field, or it is not as wide.
        """
        given: dict[int, NDArray[np.uint32]] = {}
        single: dict[int, int] = {}
        count = max((len(values) for values in fields.values() if not isinstance(values, int) and np.ndim(values)), default=1)
        for name, values in {"ttl": 64, "length": 60, **fields}.items():
            if name.upper() not in Field.__members__:
                raise ValueError(f"packets have no field {name}: {', '.join(field.name.lower() for field in Field)}")
            for word, part in enumerate(_parts(name, values, family)):
                given[Field[name.upper()] + word] = np.broadcast_to(part, (count,))
                if not part.ndim:
                    single[Field[name.upper()] + word] = int(part)
        given.update(_set_ports(given, count))
        return Packets(family, given, count, names, single)

    @staticmethod
    def of(views: Sequence[View], names: Names) -> Packets:
        """A batch from packets as the walk sees them; a ValueError where they are not all of one family."""
        if len({view.packet.family for view in views}) > 1:
            raise ValueError("packets of both families: make a batch, and a program, for each")
        rows = np.zeros((len(views), FIELDS), np.uint32)
        for row, view in zip(rows, views, strict=True):
            _fill(row, view, names)
        used = {f: rows[:, f] for f in range(FIELDS) if f in (Field.SRC, Field.DST) or rows[:, f].any()}
        used.update(_set_ports(used, len(views)))
        return Packets(views[0].packet.family if views else 4, used, len(views), names)

    def view(self, index: int, netns: Netns, hook: Hook) -> View:
        """One packet as the walk sees it."""
        number = {field: int(self.columns[self.row_of[field], index]) for field in range(FIELDS)}
        return _view(number, self.family, self.names.names, netns, hook)

    def take(self, indices: NDArray[np.int64]) -> Packets:
        """Some of the packets, as a batch of their own."""
        fields = {f: self.columns[self.row_of[f], indices] for f in range(FIELDS) if self.row_of[f]}
        return Packets(self.family, fields, len(indices), self.names, self.single)


def _parts(name: str, values: NDArray[np.uint32] | Sequence[int] | int, family: int) -> list[NDArray[np.uint32]]:
    """What is given for a field, as one array or number of 32 bits for each of its words."""
    found = np.asarray(values)
    width = 128 if family == 6 and name.endswith(("src", "dst")) else 32
    most = U32 if found.ndim else (1 << width) - 1
    fits = found.dtype == np.uint32 or not found.size or 0 <= found.min() <= found.max() <= most
    if not fits or found.shape[1:] not in ((), (width // 32,)):
        other = ", or four; or one of 128 bits" if width > 32 else ""
        raise ValueError(f"{name}: numbers of 32 bits, one for each packet{other}")
    if found.ndim == 2:
        return [*found.T.astype(np.uint32)]
    if not found.ndim and width > 32:
        return [np.asarray(int(found) >> 32 * word & U32, np.uint32) for word in range(4)]
    return [found.astype(np.uint32)]


def _set_ports(fields: Mapping[int, NDArray[np.uint32]], count: int) -> dict[int, NDArray[np.uint32]]:
    """SET_SPORT and SET_DPORT (ip_set_getport.c get_port)."""
    none = np.zeros(count, np.uint32)
    protocol = fields.get(Field.PROTOCOL, none)
    ports = np.isin(protocol, SET_PORTS)
    icmp = np.where(np.isin(protocol, (ICMP, ICMPV6)), fields.get(Field.ICMP, none), none)
    made = {}
    for derived, field in ((Field.SET_SPORT, Field.SPORT), (Field.SET_DPORT, Field.DPORT)):
        values = np.where(ports, fields.get(field, none), icmp).astype(np.uint32)
        if values.any():
            made[int(derived)] = values
    return made


def _words(row: NDArray[np.uint32], field: int, address: Ip) -> None:
    value = address.value
    for word in range(4):
        row[field + word] = value >> 32 * word & U32


def _fill(row: NDArray[np.uint32], view: View, names: Names) -> None:
    packet, ct = view.packet, view.ct
    _words(row, Field.SRC, packet.src)
    _words(row, Field.DST, packet.dst)
    flags = Flag(0)
    for field, value in (
        (Field.PROTOCOL, packet.protocol), (Field.SPORT, packet.sport), (Field.DPORT, packet.dport),
        (Field.ICMP, packet.icmp_type << 8 | packet.icmp_code), (Field.ICMP_ID, packet.icmp_id), (Field.TTL, packet.ttl),
        (Field.TCP_FLAGS, packet.tcp_flags), (Field.LENGTH, packet.length), (Field.MARK, packet.mark),
        (Field.INDEV, names.add(view.indev)), (Field.OUTDEV, names.add(view.outdev)),
        (Field.PHYSIN, names.add(view.physin)), (Field.PHYSOUT, names.add(view.physout)),
    ):  # fmt: skip
        row[field] = value
    for bit, is_set in (
        (Flag.SPORT_RANDOM, packet.sport_random), (Flag.LOCAL, view.local), (Flag.ICMP_ERROR, packet.is_icmp_error),
        (Flag.IPVS, view.ipvs), (Flag.ATTACHED, view.attached), (Flag.SRC_MAC, packet.src_mac), (Flag.DST_MAC, packet.dst_mac),
    ):  # fmt: skip
        flags |= bit if is_set else Flag(0)
    row[Field.FLAGS] = flags
    for low, mac in ((Field.SRC_MAC, packet.src_mac), (Field.DST_MAC, packet.dst_mac)):
        number = int(mac.replace(":", ""), 16) if mac else 0
        row[low], row[low + 1] = number & U32, number >> 32
    if ct is None:
        return
    row[Field.CTSTATE] = CT_STATES.index(ct.state)
    connection = ct.connection
    if connection is None:
        row[Field.CTFLAGS] = CtFlag.REPLY if ct.is_reply else 0
        return
    ct_flags = CtFlag.CONNECTION
    for ct_bit, is_set in (
        (CtFlag.REPLY, ct.is_reply), (CtFlag.SNAT, connection.snat), (CtFlag.DNAT, connection.dnat),
        (CtFlag.SEEN_REPLY, connection.seen_reply), (CtFlag.ASSURED, connection.assured),
        (CtFlag.CONFIRMED, connection.confirmed), (CtFlag.RANDOM_PORT, connection.random_port),
        (CtFlag.SRC_DONE, connection.src_done), (CtFlag.DST_DONE, connection.dst_done),
    ):  # fmt: skip
        ct_flags |= ct_bit if is_set else CtFlag(0)
    row[Field.CTFLAGS] = ct_flags
    row[Field.CTMARK] = connection.mark
    there, back = connection.original, connection.reply
    row[Field.CT_PROTOCOL] = there.protocol
    _words(row, Field.ORIG_SRC, there.src)
    _words(row, Field.ORIG_DST, there.dst)
    _words(row, Field.REPL_SRC, back.src)
    _words(row, Field.REPL_DST, back.dst)
    row[Field.ORIG_SPORT], row[Field.ORIG_DPORT] = there.sport, tuple_dport(there)
    row[Field.REPL_SPORT], row[Field.REPL_DPORT] = back.sport, tuple_dport(back)


def _view(number: Mapping[int, int], family: int, names: Sequence[str], netns: Netns, hook: Hook) -> View:
    def address(field: int) -> Ip:
        value = number[field]
        if family == 6:
            value |= number[field + 1] << 32 | number[field + 2] << 64 | number[field + 3] << 96
        return Ip(family, value)

    def mac(field: int, known: Flag) -> str:
        if not number[Field.FLAGS] & known:
            return ""
        text = f"{number[field + 1] << 32 | number[field]:012x}"
        return ":".join(text[at : at + 2] for at in range(0, 12, 2))

    flags = Flag(number[Field.FLAGS])
    packet = Packet(
        address(Field.SRC), address(Field.DST), number[Field.PROTOCOL], number[Field.SPORT], number[Field.DPORT],
        number[Field.ICMP] >> 8, number[Field.ICMP] & 255, number[Field.ICMP_ID], number[Field.TCP_FLAGS], number[Field.TTL],
        number[Field.LENGTH], mark=number[Field.MARK], sport_random=bool(flags & Flag.SPORT_RANDOM),
        src_mac=mac(Field.SRC_MAC, Flag.SRC_MAC), dst_mac=mac(Field.DST_MAC, Flag.DST_MAC),
        quoted=_SOMETHING if flags & Flag.ICMP_ERROR else None,
    )  # fmt: skip
    ct: CtView | None = None
    state = CT_STATES[number[Field.CTSTATE]]
    if state is not None:
        bits = CtFlag(number[Field.CTFLAGS])
        connection: Connection | None = None
        if bits & CtFlag.CONNECTION:
            protocol = number[Field.CT_PROTOCOL]
            down = 8 if protocol in (ICMP, ICMPV6) else 0
            connection = Connection(
                Flow(protocol, address(Field.ORIG_SRC), number[Field.ORIG_SPORT], address(Field.ORIG_DST),
                     number[Field.ORIG_DPORT] >> down),
                Flow(protocol, address(Field.REPL_SRC), number[Field.REPL_SPORT], address(Field.REPL_DST),
                     number[Field.REPL_DPORT] >> down),
                mark=number[Field.CTMARK], confirmed=bool(bits & CtFlag.CONFIRMED), seen_reply=bool(bits & CtFlag.SEEN_REPLY),
                assured=bool(bits & CtFlag.ASSURED), src_done=bool(bits & CtFlag.SRC_DONE),
                dst_done=bool(bits & CtFlag.DST_DONE), snat=bool(bits & CtFlag.SNAT), dnat=bool(bits & CtFlag.DNAT),
                random_port=bool(bits & CtFlag.RANDOM_PORT),
            )  # fmt: skip
        ct = CtView(state, connection, bool(bits & CtFlag.REPLY))
    return View(
        packet, hook, netns, names[number[Field.INDEV]], names[number[Field.OUTDEV]], names[number[Field.PHYSIN]],
        names[number[Field.PHYSOUT]], ct, bool(flags & Flag.LOCAL), ipvs=bool(flags & Flag.IPVS),
        attached=bool(flags & Flag.ATTACHED),
    )  # fmt: skip


_SOMETHING = Packet(Ip(4, 0), Ip(4, 0), 0)  # no match asks what an ICMP error quotes
