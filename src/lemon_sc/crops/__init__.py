"""Nucleus crops: read in image order, resampled once, checked, stored."""
