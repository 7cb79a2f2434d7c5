"""Smoke runs of each form of row and of one grid of the papers; of every row and grid in the long tests."""

import pytest
from smoke_check import CHOSEN, WITH_GRID, check_smoke

from train.reproduce.papers import PAPERS

OTHERS = [name for name in PAPERS if name != "afhq"]  # see test_smoke_afhq.py


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OTHERS if CHOSEN[name] or name == WITH_GRID])
def test_smoke_run_of_each_form(name, tmp_path, call, monkeypatch):
    check_smoke(name, tmp_path, call, monkeypatch, every=False)


@pytest.mark.long
@pytest.mark.parametrize("name", OTHERS)
def test_smoke_run_of_every_row(name, tmp_path, call, monkeypatch):
    check_smoke(name, tmp_path, call, monkeypatch, every=True)
