"""Plane geometry: affines and pixel sizes, nucleus outlines, sampling windows. Arrays in, arrays out."""
