"""What a SpatialData or its table holds of nuclei and crops. The verbs of `pp`, `tl` and `pl` share it."""
