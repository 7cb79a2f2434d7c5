"""Smoke runs of each kind of row and of each grid of the papers; of every row in the long tests."""

import pytest
from smoke_check import check_smoke

from train.reproduce.papers import PAPERS


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [name for name in PAPERS if name != "afhq"])
def test_smoke_run(name, every, tmp_path, call):
    check_smoke(name, tmp_path, call, every=every)
