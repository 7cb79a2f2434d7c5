"""Comparison of trained runs, settings of studies and rows of papers; `python -m train.compare` shows it."""
