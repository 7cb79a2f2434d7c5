"""A campaign of faults against all commands: see `tests/campaign/__main__.py`."""
