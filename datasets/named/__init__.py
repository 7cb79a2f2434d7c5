"""Data sets by name: the papers' and ours, one module each."""
