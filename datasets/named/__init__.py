"""Data sets by name, one module each: see `datasets.load`."""
