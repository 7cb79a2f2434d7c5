"""Figures and a page from what a run left on disk."""
