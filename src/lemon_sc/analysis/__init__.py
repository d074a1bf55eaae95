"""Kernels of the analysis verbs: arrays in, frozen results out."""
