"""Data to start with: a synthetic Xenium run with its H&E, of any size, of which everything is known."""

from lemon_sc.datasets._phantom import phantom
from lemon_sc.datasets._write import write_phantom

__all__ = ["phantom", "write_phantom"]
