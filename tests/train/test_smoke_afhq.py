"""Smoke run of the paper with the most rows, in a separate file since test processes are assigned whole files."""

import pytest
from smoke_check import check_smoke


@pytest.mark.slow
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_smoke_run(every, tmp_path, call, monkeypatch):
    check_smoke("afhq", tmp_path, call, monkeypatch, every=every)
