"""Adapters: data sets in the layout in which they are published, read into `lemon_sc.bench.kinds.Labelled`."""
