"""The paper with most rows, in a file of its own: files are what the suite's processes share out."""

import pytest
from smoke_check import check_smoke


@pytest.mark.slow
def test_every_row_runs_in_miniature(tmp_path, call):
    check_smoke("afhq", tmp_path, call)
