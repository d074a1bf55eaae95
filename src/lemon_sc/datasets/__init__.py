"""Data to start with: a synthetic Xenium run with its H&E, of any size, of which everything is known."""

from lemon_sc.datasets._phantom import phantom

__all__ = ["phantom"]
