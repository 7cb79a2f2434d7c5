"""The run directory and the run log."""
