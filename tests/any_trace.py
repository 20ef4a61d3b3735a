"""Hypothesis: any trace at all, drawn from the types themselves, so that a new step or field is tested as soon as it exists."""

from __future__ import annotations

import enum
import types
from fractions import Fraction
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from netlab.trace.steps import Header, Trace

# Fractions as random matches make them, and a product of many of them (more than 4,300 decimal digits).
_PROBABILITIES = st.one_of(st.fractions(0, 1, max_denominator=2**31), st.just(Fraction(715827883, 2**31) ** 600))


def traces() -> st.SearchStrategy[Trace]:
    return of(Trace)


@cache
def of(wanted: Any) -> st.SearchStrategy[Any]:
    """A strategy for a type that a trace is made of."""
    if wanted is Fraction:
        return _PROBABILITIES
    if wanted is str:
        return st.text(max_size=12)
    if wanted is int:
        return st.integers(0, 2**32 - 1)
    if wanted is bool:
        return st.booleans()
    if wanted is type(None):
        return st.none()
    if get_origin(wanted) in (Union, types.UnionType):
        return st.one_of(*(of(a) for a in get_args(wanted)))
    if get_origin(wanted) is Literal:
        return st.sampled_from(get_args(wanted))
    if get_origin(wanted) is tuple:
        return st.lists(of(get_args(wanted)[0]), max_size=3).map(tuple)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return st.sampled_from(wanted)
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        hints = get_type_hints(wanted)
        fields = {f.name: hints[f.name] for f in msgspec.structs.fields(wanted)}
        if wanted is not Header:
            return st.builds(wanted, **{name: of(t) for name, t in fields.items()})
        flat = {name: of(t) for name, t in fields.items() if name not in ("inner", "quoted")}
        return st.recursive(
            st.builds(Header, **flat),
            lambda h: st.builds(Header, **flat, inner=st.none() | h, quoted=st.none() | h),
            max_leaves=2,
        )
    raise TypeError(f"no strategy for {wanted}")
