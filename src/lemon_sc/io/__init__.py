"""Reading: images block by block, alignment files, and what a SpatialData holds."""
