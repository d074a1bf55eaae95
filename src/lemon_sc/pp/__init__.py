"""Preprocessing: place the H&E and check that it fits, find and cut the nuclei."""

from lemon_sc.pp._add_image import add_image
from lemon_sc.pp._check_registration import check_registration
from lemon_sc.pp._extract_nuclei import extract_nuclei

__all__ = ["add_image", "check_registration", "extract_nuclei"]
