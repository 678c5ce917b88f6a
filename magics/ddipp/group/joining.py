"""Joins what every rank has of a variable along its first axis."""

from __future__ import annotations

import itertools
import numbers
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import DdippError


def join_values(name: str, values: Sequence[Any]) -> Any:
    """Return one value made of those of all ranks, in rank order.

    Parameters
    ----------
    name : str
        Of the variable, for the error.
    values : sequence
        By rank: tensors, arrays, DataFrames, Series, lists or tuples; numbers become an array.

    Raises
    ------
    DdippError
        When these can't be joined; says why.
    """
    try:
        return _join(values)
    except Exception as error:
        why = " ".join(str(error).split())
        raise DdippError(f"{name} can't be joined: {why}; %dipull -r all gives a list") from None


def _join(values: Sequence[Any]) -> Any:
    import numpy

    first = values[0]
    if all(isinstance(value, (numbers.Number, numpy.generic)) for value in values):
        return numpy.array(values)
    if not all(isinstance(value, type(first)) for value in values):
        raise TypeError(f"they are {', '.join(sorted({type(one).__name__ for one in values}))}")
    torch: Any = sys.modules.get("torch")
    pandas: Any = sys.modules.get("pandas")
    if torch is not None and isinstance(first, torch.Tensor):
        alike = [value.detach() for value in values]
        joined = torch.stack(alike) if first.ndim == 0 else torch.cat(alike)
    elif isinstance(first, numpy.ndarray):
        joined = numpy.stack(values) if first.ndim == 0 else numpy.concatenate(values)
    elif pandas is not None and isinstance(first, (pandas.DataFrame, pandas.Series)):
        joined = pandas.concat(list(values))
    elif type(first) in (list, tuple):
        joined = type(first)(itertools.chain.from_iterable(values))
    else:
        raise TypeError(f"a {type(first).__name__} has no first axis")
    return joined
