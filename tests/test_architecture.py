"""The shape of the package: layers, file length, names, import cost."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "lemon_sc"
FILES = sorted(SRC.rglob("*.py"))
LAYERS = [
    "_core",
    "geometry",
    "io",
    "crops",
    "models",
    "embed",
    "seg metrics",
    "analysis",
    "_objects",
    "pp tl pl datasets train",
    "bench",
    "report truth batch segment",
    "cli",
]
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
ARRAYS_ONLY = {"geometry", "crops", "models", "embed", "metrics", "analysis"}
LAZY = {("models", "embed")}  # `lm.models.encode` is offered where users look for it and loads on first use


def module_of(path):
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path):
    """(module, whether only for type checking) of every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for n in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            if node.module == "lemon_sc":
                yield from ((f"lemon_sc.{alias.name}", id(node) in typing_only) for alias in node.names)
            else:
                yield node.module, id(node) in typing_only


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_down_and_files_are_short(path):
    here = module_of(path)
    if here != "__init__":
        for name, typing_only in imports(path):
            there = name.split(".")[1] if name.startswith("lemon_sc.") else None
            if there in RANK and there != here and not typing_only:
                assert RANK[there] < RANK[here], f"{here} must not import {there}"
            if here in ARRAYS_ONLY and not typing_only:
                assert name.split(".")[0] not in {"anndata", "spatialdata", "scanpy", "squidpy"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_files_of_tests_are_short():
    tests = Path(__file__).parent
    lines = {p.relative_to(tests): len(p.read_text(encoding="utf-8").splitlines()) for p in tests.rglob("*.py")}
    assert len(lines) > 100
    assert {path: n for path, n in lines.items() if n > 400} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_written_names_have_one_home(path):
    """The keys that users see in their objects are spelled once, in `_core/keys.py`; docstrings may name them."""
    if path.name in {"keys.py", "__init__.py"} or module_of(path) in {"cli", "report", "truth"}:
        return  # `pl.nucleus_qc` is also the name of a function, listed in `pl/__init__.py`
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    spelled = {n.value for n in texts if id(n) not in docs}
    assert not spelled & {"X_lemon", "nucleus_qc", "nucleus_xy"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_is_cheap():
    loaded = run("import sys, lemon_sc; print(*sys.modules)").split()
    assert not {"torch", "spatialdata", "anndata", "scanpy", "matplotlib", "numpy"} & set(loaded)


def test_cropping_and_encoding_need_no_scverse():
    """A GPU node may have torch and timm and nothing of scverse."""
    code = """
import sys
for name in ("anndata", "spatialdata", "scanpy", "squidpy", "dask", "xarray", "zarr", "geopandas"):
    sys.modules[name] = None
import numpy as np
import lemon_sc.embed, lemon_sc.models
from lemon_sc.crops.stream import stream_crops
from lemon_sc.io.image import array_image
pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
crops = np.concatenate([c for _, c in stream_crops(array_image(pixels), np.full((2, 2), 100.0), mpp=(0.25, 0.25))])
print(lemon_sc.models.encode(crops).shape[0])
"""
    assert run(code).strip() == "2"


def test_the_namespaces():
    import lemon_sc

    assert set(lemon_sc.__all__) <= set(dir(lemon_sc))
    for name in lemon_sc.__all__:
        module = getattr(lemon_sc, name)
        for public in module.__all__:
            assert getattr(module, public) is not None
    with pytest.raises(AttributeError, match="has no attribute 'plot'"):
        lemon_sc.plot  # noqa: B018


def public_functions():
    import inspect

    import lemon_sc

    for name in lemon_sc.__all__:
        module = getattr(lemon_sc, name)
        for public in module.__all__:
            thing = getattr(module, public)
            if inspect.isfunction(thing):
                yield pytest.param(thing, id=f"{name}.{public}")


@pytest.mark.parametrize("function", public_functions())
def test_docstrings_name_the_parameters_they_have(function):
    import inspect

    text = inspect.getdoc(function)
    assert "%(" not in text
    assert "Returns" in text or "Yields" in text
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    block = text.split("Parameters\n----------\n")[1].split("\n\nReturns")[0] if parameters else ""
    named = {n.strip() for line in re.findall(r"^(\S.*?)(?: :.*)?$", block, re.MULTILINE) for n in line.split(",")}
    assert {p.name for p in parameters} == named
    assert sum(p.kind is not p.KEYWORD_ONLY for p in parameters) <= 2, "data, and at most one more"
