"""Every row of the documents, and two points of each grid, in miniature."""

import pytest
from smoke_check import check_smoke

from train import papers


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in papers.DOCUMENTS if name != "afhq"])
def test_every_row_runs_in_miniature(name, tmp_path, call):
    check_smoke(name, tmp_path, call)
