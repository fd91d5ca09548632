"""Results as frozen dataclasses that are JAX pytrees, and the status they carry.

A record survives `jit` and `vmap`: its array fields are leaves, its other fields are static.
What is derived from the arrays for a reader (words, enums, verdicts) is a property or a method,
never a stored field, so that it cannot disagree with the numbers.
"""

import dataclasses
import enum
import math
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

_T = TypeVar("_T")


class Status(enum.IntEnum):
    """How a computation ended; stored in records as an integer array.

    The text of each status, `Status.text`, says what to do about it.
    """

    OK = 0
    EMPTY = 1
    NONFINITE = 2
    UNRESOLVED = 3
    NOT_CONVERGED = 4
    RANK_DEFICIENT = 5
    OUT_OF_MEMORY = 6
    FAILED = 7

    @property
    def text(self) -> str:
        """The status in words, with the remedy."""
        return _STATUS_TEXT[self]


_STATUS_TEXT = {
    Status.OK: "finished",
    Status.EMPTY: "the chain has no steps; pass at least one",
    Status.NONFINITE: "a state, a Jacobian or a gradient is NaN or infinite; inspect that step",
    Status.UNRESOLVED: "some numbers are lost to rounding; use float64 or shorter lags",
    Status.NOT_CONVERGED: "the estimate has not settled; use more steps or a shorter QR interval",
    Status.RANK_DEFICIENT: "the product is exactly singular; values beyond its rank are -inf",
    Status.OUT_OF_MEMORY: "the device ran out of memory; use fewer or smaller matrices",
    Status.FAILED: "the computation raised an error",
}


def static(**kwargs: Any) -> Any:
    """Declare a record field that is metadata (hashable, compared by `jit`), not an array."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static,))
def record(cls: type[_T]) -> type[_T]:
    """Turn a class into a frozen dataclass registered as a JAX pytree.

    Parameters
    ----------
    cls
        A class with annotated fields; fields declared with `static()` become pytree metadata.

    Returns
    -------
    type
        The dataclass, immutable and compared by identity (its leaves are arrays).
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    meta = [f.name for f in fields if f.metadata.get("static")]
    data = [f.name for f in fields if not f.metadata.get("static")]
    jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=meta)
    return cls


def jsonable(value: Any) -> Any:
    """Convert a record, array or container to JSON types; non-finite floats become strings.

    Parameters
    ----------
    value
        A record, a NumPy or JAX array, a scalar, an enum, a mapping or a sequence.

    Returns
    -------
    Any
        Dictionaries, lists, strings, numbers, booleans and None only; NaN and the infinities
        are the strings "nan", "inf" and "-inf", since JSON has no such numbers.

    Examples
    --------
    >>> jsonable({"rate": float("-inf"), "lags": (1, 2)})
    {'rate': '-inf', 'lags': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [jsonable(v) for v in value]
    if isinstance(value, (np.ndarray, jax.Array, np.generic)):
        return jsonable(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
