"""A row of each kind of the papers, and a point of each grid, in miniature; every row in the long tests."""

import pytest
from smoke_check import check_smoke

from train.reproduce.papers import PAPERS


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", [name for name in PAPERS if name != "afhq"])
def test_rows_run_in_miniature(name, every, tmp_path, call):
    check_smoke(name, tmp_path, call, every=every)
