"""Every row of the papers, and two points of each grid, in miniature."""

import pytest
from smoke_check import check_smoke

from train.reproduce.papers import PAPERS


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PAPERS if name != "afhq"])
def test_every_row_runs_in_miniature(name, tmp_path, call):
    check_smoke(name, tmp_path, call)
