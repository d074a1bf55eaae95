"""Turn the tutorial scripts into executed notebooks: ``python tutorials/build.py [NAME ...]``."""

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def build(script: Path) -> Path:
    """Execute a script as a notebook, and write the notebook with its outputs beside it."""
    notebook = jupytext.read(script)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"  # random ids would change with every build
    NotebookClient(notebook, timeout=600, record_timing=False, coalesce_streams=True).execute(cwd=str(HERE))
    path = script.with_suffix(".ipynb")
    nbformat.write(notebook, path)
    return path


if __name__ == "__main__":
    names = sys.argv[1:] or [p.stem for p in sorted(HERE.glob("[0-9]*.py"))]
    for name in names:
        print(build(HERE / f"{name}.py"))
