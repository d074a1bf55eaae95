"""`lm.tl.embed`: one vector per nucleus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lemon_sc._core import keys
from lemon_sc._core.docs import doc
from lemon_sc._core.errors import one_of
from lemon_sc._core.table import as_table, check_free, check_key
from lemon_sc.crops.mask import MASKS
from lemon_sc.tl._embed_table import embed_table, write_embedded
from lemon_sc.tl._slides import embed_slides

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from anndata import AnnData
    from spatialdata import SpatialData


@doc
def embed(
    data: AnnData | SpatialData | Sequence[AnnData | SpatialData | str | os.PathLike[str]],
    *,
    model: Any = None,
    key_added: str = keys.X_LEMON,
    table_key: str = "table",
    device: str = "auto",
    batch_size: int | str = "auto",
    dtype: str = "auto",
    mask: str | None = None,
    store: str | os.PathLike[str] | None = None,
) -> None:
    """Embed the nucleus of every cell, or the patch of every spot.

    Crops come from memory or a store if `lm.pp.extract_nuclei` or `lm.pp.extract_patches` kept them, else straight from
    the image. The model's card decides their size and pixel size. The result does not depend on batch size, order or
    device count.

    Several slides are embedded one after the other, or, where a `dask.distributed.Client` is active, on its workers, a
    slide to each; the numbers are the same. A slide whose worker is lost is embedded on another one. Workers read
    images from disk, so the slides must lie where all of them find them; for one GPU per worker, start them with
    ``dask_cuda.LocalCUDACluster``. Several GPUs of one machine are all used without a cluster.

    Parameters
    ----------
    %(data)s
        The SpatialData is needed where crops were not kept. A list holds several, or paths of SpatialData stores with
        extracted nuclei: their tables are read, and replaced by the embedded ones, on disk.
    model
        ``None`` (`guided_ti8`, which comes with the package), a name of `lm.models.available`, the path of a
        checkpoint, an `lm.models.Encoder`, or a pair of a `torch.nn.Module` or callable and its `lm.models.ModelCard`.
    %(key_added)s
    %(table_key)s
    %(device)s
    %(batch_size)s
    %(dtype)s
    mask
        ``"nucleus"`` whites out all but the nucleus, ``"ring"`` whites out the nucleus and keeps what surrounds it:
        embed all three to see where a signal comes from. ``None`` takes the crops as they were extracted.
    store
        Folder (by custom ``*.zarr``) in which embeddings are kept as they come. A run that was interrupted, or killed,
        goes on there when the same call is made again, and gives what an uninterrupted one would have given. ``None``
        keeps nothing. Of a list, each slide has its own in this folder.

    Returns
    -------
    Nothing. Adds to the table:

    `.obsm[key_added]`
        Float32 (n_obs, D); NaN rows where ``nucleus_qc`` is not ok.
    `.uns["lemon_sc"]["embed"][key_added]`
        Model, digest and licence of its weights, crop size and pixel size, precision, device, column names if they
        have a meaning, where the crops came from, package version.
    `.obs[key_added + "_encoder"]`
        In words, which encoder made the row from what. Verbs refuse to mix rows whose words differ, as they may after
        `anndata.concat`.
    `.obs["nucleus_qc"]`
        Where crops come straight from the image, those of no use (blank, off tissue, pen, saturated, blurred) are
        marked now.

    Raises
    ------
    MissingKeyError
        If neither `lm.pp.extract_nuclei` nor `lm.pp.extract_patches` has run.
    ValueError
        If no nucleus is usable, the crops are not at hand, the model is unknown, or `key_added` holds what
        `lm.tl.pool_nuclei` or `lm.tl.decompose` made.
    RuntimeError
        If the output is not finite, or the same for all crops.
    ExceptionGroup
        If slides of a list fail, after all others are done.

    Examples
    --------
    >>> import lemon_sc as lm
    >>> sdata = lm.datasets.phantom(n_cells=200)
    >>> lm.pp.extract_nuclei(sdata)
    >>> lm.tl.embed(sdata)
    >>> sdata["table"].obsm["X_lemon"].shape[0]
    200
    """
    check_key(key_added)
    if mask is not None:
        one_of("mask", mask, MASKS)
    options = {"model": model, "table_key": table_key, "mask": mask}
    options |= {"device": device, "batch_size": batch_size, "dtype": dtype}
    if isinstance(data, list | tuple):
        embed_slides(data, key_added=key_added, store=store, **options)
    else:
        adata = as_table(data, table_key=table_key)
        check_free(adata, key_added, verb=keys.EMBED)
        write_embedded(adata, embed_table(data, store=store, **options), key_added=key_added)
