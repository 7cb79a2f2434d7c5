"""Run directory and run log."""
