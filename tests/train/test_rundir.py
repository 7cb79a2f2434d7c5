"""The files of a run's directory."""

import json

import pytest

from train.record.directory import write_json


def test_write_json_puts_lists_of_numbers_on_one_line_and_changes_nothing_else(tmp_path):
    data = {
        "losses": [0.5, 1e-07, -3, None],
        "matrix": [[1, 2], [3, 4]],
        "empty": [],
        "mixed": [1, "two"],
        "looks so": "[\n  1,\n  2\n]",
        "flags": [True, False],
    }
    write_json(tmp_path / "data.json", data)
    text = (tmp_path / "data.json").read_text()
    assert json.loads(text) == data
    assert '"losses": [0.5, 1e-07, -3, null]' in text
    assert "    [1, 2],\n    [3, 4]\n" in text


def test_write_json_refuses_what_json_has_not_and_leaves_the_file(tmp_path):
    write_json(tmp_path / "data.json", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "data.json", [float("nan")])
    assert json.loads((tmp_path / "data.json").read_text()) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["data.json"]
