"""The choices of a probe beside its data, in one place that can be named, stored and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from lemon_sc._core.errors import bad_value, one_of

FOLDS = ("auto", "groups", "blocks", "stratified")
PENALTIES = ("inner", "hest")


@dataclass(frozen=True, kw_only=True)
class ProbeProtocol:
    """How `lm.tl.probe` splits, fits and tests."""

    folds: str = "auto"
    """``"groups"``: each group is held out once. ``"blocks"``: five folds of square blocks of one slide.
    ``"stratified"``: five random folds with the same share of each class, which let neighbours and cells of one slide
    stand on both sides (classes only). ``"auto"``: groups if a column is given, else blocks."""

    buffer: float = 0.0
    """Blocks only: least distance between cells of different folds, in units of ``obsm["spatial"]`` (um). Cells between
    blocks are left out and counted. A few cell diameters keep neighbours from standing on both sides."""

    patient_key: str | None = None
    """Column of ``adata.obs`` with the patient, where one has several slides: a slide is then predicted from slides of
    other patients only, and correlations are still those within a slide."""

    alpha: float | str = "inner"
    """Penalty of the ridge (genes). ``"inner"``: chosen within the training cells. ``"hest"``: ``100 / (F * G)`` with F
    features (or components) and G genes, without intercept. A number: that penalty, as scikit-learn counts it."""

    c: float | str = 1.0
    """Inverse penalty of the logistic regression (classes), as scikit-learn counts it. ``"inner"``: chosen for each
    fold within its training cells, of 10^-4 to 10^4, by balanced accuracy; it takes ten times as long or more."""

    n_pcs: int | None = None
    """Principal components of the standardised training features (at most as many as there are) in place of the
    features; ``None``: the features."""

    train_only: bool = False
    """Choose the genes of ``target="genes"`` in the training cells of each fold. Folds can then differ in genes."""

    pos_label: str | None = None
    """Class whose ROC and precision-recall curves are scored; ``None``: mean over classes."""

    n_null: int = 20
    """Shuffles for the null; the smallest p-value is ``1 / (1 + n_null)``."""

    def __post_init__(self) -> None:
        one_of("folds", self.folds, FOLDS)
        if isinstance(self.alpha, str):
            one_of("alpha", self.alpha, PENALTIES)
        elif not _is_number(self.alpha):
            raise bad_value("alpha", must='be "inner", "hest" or a finite number > 0', got=self.alpha)
        if self.c != "inner" and not _is_number(self.c):
            raise bad_value("c", must='be "inner" or a finite number > 0', got=self.c)
        if not _is_number(self.buffer) and self.buffer != 0:
            raise bad_value("buffer", must="be a finite number >= 0", got=self.buffer)
        if self.n_pcs is not None and not _is_int(self.n_pcs, least=1):
            raise bad_value("n_pcs", must="be None or an int >= 1", got=self.n_pcs)
        if not _is_int(self.n_null, least=0):
            raise bad_value("n_null", must="be an int >= 0", got=self.n_null)
        if not isinstance(self.train_only, bool):
            raise bad_value("train_only", must="be True or False", got=self.train_only)
        for name, value in (("patient_key", self.patient_key), ("pos_label", self.pos_label)):
            if value is not None and not isinstance(value, str):
                raise bad_value(name, must="be None or a str", got=value)


def _is_int(value: object, *, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: object) -> bool:
    """A finite number > 0."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


PROTOCOLS = {"default": ProbeProtocol(), "hest": ProbeProtocol(alpha="hest", n_pcs=256)}
"""Protocols with a name."""


def as_protocol(protocol: str | ProbeProtocol) -> ProbeProtocol:
    """The protocol of this name, or the protocol itself.

    Parameters
    ----------
    protocol
        Name of one of `PROTOCOLS`, or a protocol of one's own.

    Returns
    -------
    The protocol.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If there is no protocol of that name.
    """
    if isinstance(protocol, ProbeProtocol):
        return protocol
    if not isinstance(protocol, str):
        msg = f"`protocol` must be one of {list(PROTOCOLS)} or a `lm.tl.ProbeProtocol`, got {type(protocol).__name__}."
        raise TypeError(msg)
    return PROTOCOLS[one_of("protocol", protocol, PROTOCOLS)]
