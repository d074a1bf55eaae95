"""Preprocessing: place the H&E, find and cut the nuclei."""

from lemon_sc.pp._add_image import add_image
from lemon_sc.pp._extract_nuclei import extract_nuclei

__all__ = ["add_image", "extract_nuclei"]
