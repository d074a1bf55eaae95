"""`lm.tl.transfer_labels` on the phantom, the references that ship, and everything that can be wrong with either."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from sklearn.metrics import balanced_accuracy_score

import lemon_sc as lm
from lemon_sc._core.errors import MissingKeyError
from lemon_sc.tl import _label_references as references
from lemon_sc.tl._label_references import LabelReference, read_reference, shipped, write_reference

TYPES = ["nonTIL_stromal", "sTIL", "tumor_any"]


@pytest.fixture(scope="module")
def embedded():
    sdata = lm.datasets.phantom(n_cells=240)
    lm.pp.extract_nuclei(sdata)
    lm.tl.embed(sdata, model="morphometry")
    return sdata


@pytest.fixture
def halves(embedded):
    """Labelled nuclei on the left, others on the right, and the true types of these."""
    adata = embedded["table"]
    left = adata.obsm["spatial"][:, 0] < np.median(adata.obsm["spatial"][:, 0])
    return adata[left].copy(), adata[~left].copy()


def table(n=60, d=4, seed=0, words="m sha256:abc, 40 px at 0.25 um"):
    """Two types that the first feature tells apart, on two slides."""
    rng = np.random.default_rng(seed)
    kind = np.arange(n) % 2
    x = rng.standard_normal((n, d)).astype(np.float32)
    x[:, 0] += 4 * kind
    obs = pd.DataFrame({"type": np.array(["a", "b"])[kind], "slide": np.repeat(["s", "t"], n // 2)})
    adata = ad.AnnData(obs=obs.set_index(np.arange(n).astype(str)), obsm={"X_lemon": x})
    if words:
        adata.obs["X_lemon_encoder"] = words
    return adata


def record(adata, key="nucleus_type"):
    return adata.uns["lemon_sc"]["transfer_labels"][key]


def test_types_of_the_phantom_are_found_on_the_other_half_and_shuffled_ones_are_not(halves, tmp_path, caplog):
    known, adata = halves
    caplog.set_level(logging.INFO, "lemon_sc")
    lm.tl.transfer_labels(adata, reference=known, groupby="truth_type", slides=None)
    has = np.isfinite(adata.obsm["X_lemon"]).all(axis=1)
    assert 0 < (~has).sum() < len(has)
    assert f"{has.sum()} cells typed" in caplog.text
    assert f"{(~has).sum()} without embedding" in caplog.text
    assert (adata.obs["nucleus_type"].notna().to_numpy() == has).all()
    assert (adata.obs["nucleus_type_probability"].notna().to_numpy() == has).all()
    of_each = adata.obsm["nucleus_type"]
    assert list(of_each.columns) == list(adata.obs["nucleus_type"].cat.categories) == sorted(of_each.columns)
    np.testing.assert_allclose(of_each[has].sum(axis=1), 1, atol=1e-5)
    assert (of_each[has].idxmax(axis=1) == adata.obs["nucleus_type"][has].astype(str)).all()
    np.testing.assert_array_equal(adata.obs["nucleus_type_probability"][has], of_each[has].max(axis=1))
    truth = adata.obs["truth_type"].astype(str)[has]
    right = balanced_accuracy_score(truth, adata.obs["nucleus_type"].astype(str)[has])
    assert right > 0.7
    shuffled = known.copy()
    shuffled.obs["truth_type"] = known.obs["truth_type"].to_numpy()[np.random.default_rng(0).permutation(known.n_obs)]
    lm.tl.transfer_labels(adata, reference=shuffled, groupby="truth_type", key_added="chance")
    assert balanced_accuracy_score(truth, adata.obs["chance"].astype(str)[has]) < 0.35  # of seven types
    assert record(adata, "chance")["held_out_balanced_accuracy"] < 0.35 < record(adata)["held_out_balanced_accuracy"]
    adata.write_h5ad(tmp_path / "typed.h5ad")
    again = ad.read_h5ad(tmp_path / "typed.h5ad")
    pd.testing.assert_frame_equal(again.obsm["nucleus_type"], of_each, check_names=False)
    steps = lm.tl.provenance(again)
    made = next(step for step in steps if step["step"] == "transfer_labels")
    assert made["made_from"] == next(step for step in steps if step["step"] == "embed")["id"]


def test_nuclei_found_in_the_image_are_typed_by_the_reference_that_ships(embedded):
    sdata = lm.datasets.phantom(n_cells=120)
    lm.pp.segment_nuclei(sdata, model="haematoxylin")
    lm.pp.extract_nuclei(sdata, shapes_key="he_nuclei", table_key="he_nuclei_table")
    lm.tl.embed(sdata, model="morphometry", table_key="he_nuclei_table")
    nuclei = sdata["he_nuclei_table"]
    before = nuclei.obs["nucleus_probability"].copy()
    lm.tl.transfer_labels(nuclei)  # the segmenter's one type gives way
    assert list(nuclei.obs["nucleus_type"].cat.categories) == TYPES
    assert nuclei.obs["nucleus_probability"].equals(before)
    assert record(nuclei)["facts"]["licence"] == "CC0"
    assert record(nuclei)["n_reference"] == 370
    lm.tl.transfer_labels(nuclei, standardize="query")  # and an earlier result to a new one
    assert record(nuclei)["standardize"] == "query"
    lm.tl.transfer_labels(embedded)  # of a SpatialData, its table
    made = embedded["table"].obs
    lymphocyte = made["truth_type"] == "lymphocyte"
    typed = made["nucleus_type"].notna()
    assert (made["nucleus_type"][lymphocyte & typed] == "sTIL").mean() > 0.8
    assert (made["nucleus_type"][(made["truth_type"] == "tumour") & typed] == "sTIL").mean() < 0.2


@pytest.mark.parametrize(
    ("column", "key"),
    [("region", "region"), ("nucleus_probability", "nucleus"), ("nucleus_type", "nucleus_type"), ("m", "m")],
)
def test_a_column_of_others_stays_even_where_it_is_constant(column, key):
    query = table(seed=1)
    query.obs[column] = 1.0 if column == "m" else "slide 1"
    with pytest.raises(ValueError, match=rf"what is there already \(adata.obs\['{column}'\]\).*another name"):
        lm.tl.transfer_labels(query, reference=table(), key_added=key)
    assert query.obs[column].nunique() == 1
    assert key not in query.obsm


@pytest.mark.parametrize("how", ["one type", "renamed", "missing", "no probabilities"])
def test_types_that_were_changed_by_hand_stay(how):
    query = table(seed=1)
    lm.tl.transfer_labels(query, reference=table())
    lm.tl.transfer_labels(query, reference=table(seed=2))
    types = query.obs["nucleus_type"]
    if how == "one type":
        types.iloc[3] = {"a": "b", "b": "a"}[types.iloc[3]]
    elif how == "renamed":
        query.obs["nucleus_type"] = types.cat.rename_categories({"a": "lymphocyte"})
    elif how == "missing":
        types.iloc[3] = None
    else:
        del query.obsm["nucleus_type"]
    before = query.obs["nucleus_type"].copy()
    with pytest.raises(ValueError, match=r"what is there already \(adata.obs\['nucleus_type'\]\)"):
        lm.tl.transfer_labels(query, reference=table())
    assert query.obs["nucleus_type"].equals(before)
    del query.obs["nucleus_type"]
    lm.tl.transfer_labels(query, reference=table())
    assert query.obs["nucleus_type"].notna().all()


def test_types_that_cannot_be_held_out_are_named_and_counted(caplog):
    known = table()
    known.obs["slide"] = np.tile(["s", "s", "t", "t"], 15)
    lm.tl.transfer_labels(table(seed=1), reference=known, slides="slide")
    assert "held-out scores say nothing" not in caplog.text
    query = table(seed=1)
    known.obs.loc[known.obs_names[:20], "type"] = np.where(known.obs["slide"] == "s", "only s", known.obs["type"])[:20]
    lm.tl.transfer_labels(query, reference=known, slides="slide")
    assert "held-out scores say nothing of ['only s'], which cells are given: each is on one slide alone" in caplog.text
    assert record(query)["types"]["n_held_out"].to_dict() == {"a": 25, "b": 25, "only s": 0}
    assert record(query)["types"]["n"].sum() == 60


def test_few_cells_do_not_stand_for_a_slide(caplog):
    query = table(seed=1)
    query.obs = query.obs[["X_lemon_encoder"]]
    lm.tl.transfer_labels(query, reference=table(), slides="slide", standardize="query")
    assert "mean and sd of 60 cells: too few" in caplog.text
    assert record(query)["slides"] == "slide"
    assert (query.obs["nucleus_type"].to_numpy() == np.tile(["a", "b"], 30)).mean() > 0.9


def test_the_references_that_ship():
    files = sorted(references.FOLDER.glob("*.npz"))
    assert files
    for path in files:
        made = read_reference(path)
        assert path.name == f"{made.name}-{made.facts['model']}.npz"
        assert path.stat().st_size < 500_000
        assert made.x.shape[0] == len(made.labels) == len(made.slides) == 370
        assert np.isfinite(made.x).all()
        assert {name: int((made.labels == name).sum()) for name in TYPES} == dict(
            zip(TYPES, (82, 229, 59), strict=True)
        )
        assert len(set(made.slides)) == 15
        assert made.facts["licence"] == "CC0"
        assert "Amgad" in made.facts["source"]
        assert made.encoder.startswith(made.facts["model"])
        assert made.facts["weights_sha256"][:12] in made.encoder
        assert shipped(made.name, made.encoder, use_rep="X_lemon").sha256 == made.sha256
    default = lm.models.available()[0].name
    assert default in {path.name.split("-", 1)[1].removesuffix(".npz") for path in files}


@pytest.mark.parametrize("slides", [None, np.array(["s", "t", "s", "s"])])
def test_a_reference_is_read_as_it_was_written(tmp_path, slides):
    x = np.float32([[0.5, 1.25], [2, 3], [-4, 5], [0.1, 89.5]])
    made = LabelReference(
        name="mine", encoder="m sha256:ab, 40 px", x=x, labels=np.array(list("abca")), slides=slides, facts={"k": "v"}
    )
    path = write_reference(made, tmp_path)
    assert path.name == "mine-m.npz"
    again = read_reference(path)
    np.testing.assert_array_equal(again.x, x.astype(np.float16))
    assert again.labels.tolist() == list("abca")
    assert (again.slides is None) == (slides is None)
    assert slides is None or again.slides.tolist() == slides.tolist()
    assert (again.name, again.encoder, again.facts) == ("mine", made.encoder, {"k": "v"})


def test_stain_may_differ_with_a_warning_and_weights_may_not(caplog):
    words = "m sha256:abc, 40 px at 0.25 um"
    query = table()
    query.obs["X_lemon_encoder"] = words + ", stain tcga"
    lm.tl.transfer_labels(query, reference=table(words=words))
    assert "the stain of reference and table was treated differently" in caplog.text
    for other in ("m sha256:abd, 40 px at 0.25 um", "m sha256:abc, 40 px at 0.25 um, mask nucleus", None):
        with pytest.raises(ValueError, match=r"embedded differently.*sha256:ab.*Embed both with `lm.tl.embed`"):
            lm.tl.transfer_labels(query, reference=table(words=other))
    plain = table(words=None)
    lm.tl.transfer_labels(plain, reference=table(words=None))  # own arrays, which nobody knows more of
    assert record(plain)["encoder"] == ""


def alike(known):
    known.obs["type"] = np.tile(["T/NK", "T_NK", "c"], 20)


def no_columns(known):
    known.obs["type"] = np.tile(["..", "_index", "c"], 20)


def numbered(known):
    known.obs["type"] = 1.0


def unlabelled(known):
    known.obs["type"] = np.nan
    known.obs["type"] = known.obs["type"].astype("category")


def unembedded(known):
    known.obsm["X_lemon"][:] = np.nan


def bare(known):
    del known.obsm["X_lemon"]


def of_one_type(known):
    known.obs["type"] = "a"


def wide(known):
    known.obsm["X_lemon"] = np.hstack([known.obsm["X_lemon"]] * 2)


@pytest.mark.parametrize(
    ("spoil", "options", "error", "match"),
    [
        (None, {"groupby": "typ"}, MissingKeyError, r"'typ' not found in `reference.obs`.*mean 'type'.*`groupby=`"),
        (None, {"slides": "patient"}, MissingKeyError, r"'patient' not found in `reference.obs`.*`slides=`"),
        (None, {"use_rep": "X_pca"}, MissingKeyError, r"'X_pca' not found in `adata.obsm`.*Run `lm.tl.embed` first"),
        (numbered, {}, ValueError, r"`groupby` must name a column of classes.*got 'type \(float64\)'"),
        (alike, {}, ValueError, r"labels can be told apart when '/' is written as '_', got \"\['T/NK', 'T_NK'\]"),
        (no_columns, {}, ValueError, r"labels can be names that files can hold, got \"\['..', '_index'\]"),
        (
            unlabelled,
            {},
            ValueError,
            r"no cell to learn from: of 60, 60 have an embedding.* 0 a label in obs\['type'\]",
        ),
        (unembedded, {}, ValueError, r"No row of `reference.obsm\['X_lemon'\]` \(60, 4\) is free of NaN"),
        (of_one_type, {}, ValueError, r"Labels of at least two classes are needed.*found \['a'\]"),
        (None, {"slides": "one"}, ValueError, r"`slides` must name a column with at least two.*\['t'\].*`slides=None`"),
        (None, {"groupby": None}, ValueError, "`groupby` must be the name of one column, got None. `groupby=` names"),
        (None, {"groupby": ["type"]}, ValueError, r"`groupby` must be the name of one column, got \['type'\]"),
        (None, {"slides": ["slide"]}, ValueError, "`slides` must be the name of one column"),
        (bare, {}, MissingKeyError, r"'X_lemon' not found in `reference.obsm`"),
        (None, {"slides": "type"}, ValueError, r"No penalty can be chosen.*a class of its own"),
        (wide, {}, ValueError, r"`reference` must have 4 columns in obsm\['X_lemon'\].*got \(60, 8\)"),
        (None, {"standardize": "slide"}, ValueError, r"`standardize` must be one of \['reference', 'query'\]"),
        (None, {"key_added": "X_lemon"}, ValueError, "`key_added` must not be the key of the embedding"),
        (None, {"key_added": "a b"}, ValueError, "`key_added` must hold only letters"),
        (None, {"key_added": "own"}, ValueError, r"what is there already \(adata.obsm\['own'\]\)"),
        (None, {"key_added": "slide"}, ValueError, r"what is there already \(adata.obs\['slide'\]\).*another name"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_bad_input_is_named_and_nothing_is_written(spoil, options, error, match):
    known, query = table(), table(seed=1)
    known.obs["one"] = "t"
    query.obsm["own"] = np.zeros((60, 2))
    before = (set(query.obs), set(query.obsm), set(query.uns))
    if spoil is not None:
        spoil(known)
    with pytest.raises(error, match=match):
        lm.tl.transfer_labels(query, reference=known, **options)
    assert (set(query.obs), set(query.obsm), set(query.uns)) == before


def test_a_name_that_is_no_reference_and_an_embedding_that_none_has():
    query = table()
    with pytest.raises(ValueError, match=r"`reference` must be one of \['nucls'\], got 'nucles'. Did you mean 'nucls'"):
        lm.tl.transfer_labels(query, reference="nucles")
    with pytest.raises(
        ValueError, match=r"'nucls' was embedded by \['guided_ti8.*'morphometry.*by 'm sha256:abc.*of your"
    ):
        lm.tl.transfer_labels(query)
    with pytest.raises(ValueError, match="obsm\\['X_lemon'\\] by 'an unknown model'"):
        lm.tl.transfer_labels(table(words=None))
    with pytest.raises(ValueError, match="`slides` must be None for a reference that ships.*got 'slide'"):
        lm.tl.transfer_labels(query, slides="slide")
    for reference in (3, None, query.obs):
        with pytest.raises(TypeError, match=f"`reference` must be .* that ships, got {type(reference).__name__}"):
            lm.tl.transfer_labels(query, reference=reference)


def test_the_table_of_another_name():
    query = sd.SpatialData(tables={"nuclei": table(seed=1)})
    known = sd.SpatialData(tables={"nuclei": table()})
    lm.tl.transfer_labels(query, reference=known, table_key="nuclei")
    assert query["nuclei"].obs["nucleus_type"].notna().all()
    with pytest.raises(MissingKeyError, match="'table' not found in `sdata.tables`.*Pass `table_key=`"):
        lm.tl.transfer_labels(query, reference=known)
    with pytest.raises(MissingKeyError, match="'table' not found in `reference.tables`.*Pass the table itself"):
        lm.tl.transfer_labels(table(seed=1), reference=known)


def test_a_slash_does_not_keep_a_table_from_being_written(tmp_path):
    known, query = table(), table(seed=1)
    known.obs["type"] = known.obs["type"].replace({"a": "T/NK"})
    lm.tl.transfer_labels(query, reference=known)
    query.write_zarr(tmp_path / "typed.zarr")
    again = ad.read_zarr(tmp_path / "typed.zarr")
    assert again.obsm["nucleus_type"].columns.tolist() == again.obs["nucleus_type"].cat.categories.tolist()
    assert again.obs["nucleus_type"].cat.categories.tolist() == ["T_NK", "b"]


def test_an_empty_label_is_none():
    known, query = table(), table(seed=1)
    known.obs["type"] = pd.Categorical(np.where(np.arange(60) < 20, np.tile(["", " "], 30), known.obs["type"]))
    lm.tl.transfer_labels(query, reference=known)
    assert list(query.obsm["nucleus_type"].columns) == ["a", "b"]
    assert record(query)["n_reference"] == 40
    assert record(query)["n_reference_left_out"] == 20


def test_cells_whose_names_repeat_are_typed_by_row():
    query = table(seed=1)
    query.obs_names = ["x"] * query.n_obs
    lm.tl.transfer_labels(query, reference=table())
    assert (query.obs["nucleus_type"].to_numpy() == query.obs["type"].to_numpy()).mean() > 0.9
