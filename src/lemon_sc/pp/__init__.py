"""Preprocessing: place the H&E, check that it fits and that ids join, find and cut the nuclei."""

from lemon_sc.pp._add_image import add_image
from lemon_sc.pp._add_nuclei import add_nuclei
from lemon_sc.pp._check_join import check_join
from lemon_sc.pp._check_registration import check_registration
from lemon_sc.pp._extract_nuclei import extract_nuclei
from lemon_sc.pp._extract_patches import extract_patches
from lemon_sc.pp._filter_nuclei import filter_nuclei
from lemon_sc.pp._normalize_stain import normalize_stain
from lemon_sc.pp._rechunk import rechunk
from lemon_sc.pp._segment_nuclei import segment_nuclei

__all__ = [
    "add_image",
    "add_nuclei",
    "check_join",
    "check_registration",
    "extract_nuclei",
    "extract_patches",
    "filter_nuclei",
    "normalize_stain",
    "rechunk",
    "segment_nuclei",
]
