"""Figures and an HTML report from the files of a run."""
