"""Figures appear in a notebook even where ours is the first of the session."""

import nbformat
from nbclient import NotebookClient

CELLS = (
    "import lemon_sc as lm\nsdata = lm.datasets.phantom(n_cells=60)\nlm.pp.extract_nuclei(sdata)",
    "lm.pl.outlines(sdata);",
    "lm.pl.nucleus_qc(sdata);",
)


def test_every_figure_is_shown(monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the notebook chooses its own
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in CELLS])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [any("image/png" in out.get("data", {}) for out in cell.outputs) for cell in notebook.cells]
    assert shown == [False, True, True]
