"""Named data sets, one module each: see `datasets.load`."""
