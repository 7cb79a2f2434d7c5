"""Comparison of finished runs, settings of studies and rows of papers, for `python -m train.compare`."""
