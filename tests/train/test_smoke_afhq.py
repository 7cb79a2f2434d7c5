"""The paper with most rows, in a file of its own: files are what the suite's processes share out."""

import pytest
from smoke_check import check_smoke


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_rows_run_in_miniature(every, tmp_path, call):
    check_smoke("afhq", tmp_path, call, every=every)
