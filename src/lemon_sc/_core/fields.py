"""Fields of dataclasses that are kept as JSON: their names, the numbers in them, and what is written of them."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, TypeVar

from lemon_sc._core.errors import bad_value, missing_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from _typeshed import DataclassInstance

    Kept = TypeVar("Kept", bound=DataclassInstance)


def plain(kept: Any) -> dict[str, Any]:
    """All fields, in types that JSON has.

    Parameters
    ----------
    kept
        A dataclass of numbers, texts, tuples and dicts.

    Returns
    -------
    Values by name; tuples are lists.
    """
    found = dataclasses.asdict(kept)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def check_names(kind: type[DataclassInstance], names: Iterable[str], *, where: str) -> None:
    """Raise if a dataclass lacks fields.

    Parameters
    ----------
    kind
        The dataclass.
    names
        Of what is to be set.
    where
        Its fields in words, for the message.

    Raises
    ------
    KeyError
        A field that it does not have.
    """
    known = [f.name for f in dataclasses.fields(kind)]
    for name in names:
        if name not in known:
            raise missing_key(name, where=where, have=known)


def changed_fields(kept: Kept, changes: Mapping[str, Any], *, where: str) -> Kept:
    """The same with some fields set.

    Parameters
    ----------
    kept
        Where to begin.
    changes
        New values, by field.
    where
        Its fields in words, for the message.

    Returns
    -------
    Another one.

    Raises
    ------
    KeyError
        A field that it does not have.
    ValueError
        A value that a field cannot have.
    """
    check_names(type(kept), changes, where=where)
    return dataclasses.replace(kept, **changes)


def check_int(name: str, value: object, *, least: int = 1) -> None:
    """Raise unless a value is a whole number that JSON can hold, and large enough.

    Parameters
    ----------
    name
        Of the parameter or field.
    value
        What was given.
    least
        The smallest that it may be.

    Raises
    ------
    ValueError
        If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise bad_value(name, must=f"be an int >= {least}", got=value)


def check_number(name: str, value: object, *, zero: bool = True) -> None:
    """Raise unless a value is a finite number that JSON can hold, and not negative.

    Parameters
    ----------
    name
        Of the parameter or field.
    value
        What was given.
    zero
        Whether it may be 0.

    Raises
    ------
    ValueError
        If it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):  # type: ignore[operator]
        raise bad_value(name, must=f"be a number {'>=' if zero else '>'} 0", got=value)
