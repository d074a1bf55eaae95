"""The documentation says what the package does: its code runs, its lists are complete, its links lead somewhere."""

import re
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import lemon_sc as lm

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^(<!-- not run: [^\n]*-->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WITH_CODE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
N_CELLS = 300


def blocks(page):
    """(line, code, whether it can be run) of every python block."""
    text = page.read_text(encoding="utf-8")
    found = BLOCK.finditer(text)
    return [(text[: m.start(2)].count("\n") + 1, m.group(2), m.group(1) is None) for m in found]


def page_id(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def small_phantom(monkeypatch):
    """`lm.datasets.phantom()` as written in the pages, with fewer cells."""
    whole = lm.datasets.phantom
    monkeypatch.setattr(lm.datasets, "phantom", lambda **options: whole(**{**options, "n_cells": N_CELLS}))


@pytest.mark.filterwarnings("ignore")  # of other packages; what the code gives is what is tested
@pytest.mark.parametrize("page", WITH_CODE, ids=page_id)
def test_code_runs(page, small_phantom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for line, code, can_run in blocks(page):
        compiled = compile("\n" * line + code, str(page), "exec")  # a traceback names the line of the page
        if can_run:
            exec(compiled, namespace)
    plt.close("all")
    assert "lm" in namespace


def test_blocks_are_found_with_their_marks():
    found = blocks(ROOT / "README.md")
    assert [can_run for _, _, can_run in found] == [True, False]
    assert sum(page.read_text(encoding="utf-8").count("```python") for page in PAGES) == sum(
        len(blocks(page)) for page in PAGES
    )


@cache
def listed(name):
    """Names in the autosummary of an API page."""
    text = (ROOT / "docs" / "api" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(r"^   (\w+)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", lm.__all__)
def test_api_pages_list_what_is_public(name):
    assert sorted(listed(name)) == sorted(getattr(lm, name).__all__)
    index = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    assert re.search(rf"^{name}$", index, re.MULTILINE)


def test_columns_of_morphometry_are_those_of_its_card():
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    table = text.split("<!-- columns of morphometry")[1].split("\n\n")[0]
    features = lm.models.load("morphometry").card.features
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(features)
    assert f"{len(features)} named measurements" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_categories_of_qc_are_explained():
    from lemon_sc._core.keys import QC_CATEGORIES

    text = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").split("## Quality control")[1]
    assert re.findall(r"^\| `(\w+)` \|", text.split("## ")[0], re.MULTILINE) == list(QC_CATEGORIES)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=page_id)
def test_relative_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" in target:
            continue
        # the build copies tutorials/ beside the pages
        path = ROOT / target if target.startswith("tutorials/") else page.parent / target
        assert path.exists(), f"{page_id(page)} links to {target}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=page_id)
def test_commands_and_options_exist(page):
    """Every `lemon-sc` command line in the text parses, and every `lm.x.y` is there."""
    from lemon_sc.cli import parser

    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^lemon-sc ([^\n#]*)", text, re.MULTILINE):
        parser().parse_args(line.split())
    for space, name in re.findall(r"\blm\.(\w+)\.(\w+)", text):
        assert name in getattr(lm, space).__all__
    for space, name in re.findall(r"\{(?:func|class)\}`lemon_sc\.(\w+)\.(\w+)`", text):
        assert name in getattr(lm, space).__all__


def test_pictures_are_small():
    pictures = [p for p in (ROOT / "docs" / "_static").iterdir() if p.suffix in {".jpg", ".png"}]
    assert pictures
    assert all(p.stat().st_size < 300_000 for p in pictures)
