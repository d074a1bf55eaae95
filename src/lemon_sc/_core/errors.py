"""The two shapes an error takes: what, where, what is there, and what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class MissingKeyError(KeyError):
    """A name that is not where it was looked for. Prints as a sentence, where `KeyError` prints a repr."""

    def __str__(self) -> str:
        return str(self.args[0])


def listing(names: Iterable[object], *, most: int = 12) -> str:
    """Names as a short list for a message: the first `most`, then how many more.

    Parameters
    ----------
    names
        Names, or anything that can be written.
    most
        How many are shown.

    Returns
    -------
    Text in square brackets.
    """
    all_names = [str(n) for n in names]
    shown = ", ".join(repr(n) for n in all_names[:most])
    more = f", and {len(all_names) - most} more" if len(all_names) > most else ""
    return f"[{shown}{more}]"


def missing_key(key: object, *, where: str, have: Iterable[object], fix: str = "") -> MissingKeyError:
    """Error for a key that is not there.

    Parameters
    ----------
    key
        What was asked for.
    where
        Where it was looked for, as the user writes it, for instance ``"adata.obsm"``.
    have
        What is there.
    fix
        One sentence that says what to do.

    Returns
    -------
    The error, to be raised.
    """
    names = [str(h) for h in have]
    found = f"{str(key)!r} not found in `{where}` (found: {listing(names)})."
    return MissingKeyError(f"{found}{_hint(key, names)} {fix}".rstrip())


def bad_value(name: str, *, must: str, got: object, fix: str = "") -> ValueError:
    """Error for a parameter with a value it cannot have: ``bad_value("k", must="be an int >= 1", got=0)``.

    Parameters
    ----------
    name
        Of the parameter.
    must
        What it must do or be, to follow "must".
    got
        What was given.
    fix
        One sentence that says what to do.

    Returns
    -------
    The error, to be raised.
    """
    return ValueError(f"`{name}` must {must}, got {got!r}. {fix}".rstrip())


def one_of(name: str, value: str, options: Iterable[str]) -> str:
    """Return `value` if it is one of `options`, else raise with the nearest option as a hint.

    Parameters
    ----------
    name
        Of the parameter.
    value
        What was given.
    options
        What it may be.

    Returns
    -------
    `value`.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    choices = list(options)
    if value in choices:
        return value
    msg = f"`{name}` must be one of {listing(choices)}, got {value!r}.{_hint(value, choices)}"
    raise ValueError(msg)


def _hint(name: object, names: Iterable[str]) -> str:
    """The nearest of `names`, whatever its case, as a question; nothing where none is near."""
    by_folded = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(str(name), names, n=1) or [
        by_folded[folded] for folded in difflib.get_close_matches(str(name).casefold(), by_folded, n=1, cutoff=0.8)
    ]
    return f" Did you mean {close[0]!r}?" if close else ""
