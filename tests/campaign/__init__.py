"""Fault injection for all commands: see `tests/campaign/__main__.py`."""
