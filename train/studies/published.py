"""The test of a finished run on a published test split, which its study has not used before."""

from typing import Any

import numpy as np

from train.record.directory import RunDir, write_json
from train.studies.tasks import PUBLISHED
from zoo.common.files import whole_file


def test_published(run: RunDir) -> dict[str, Any]:
    """Test a run's weights on its test split; write test.json and predictions.npz to its folder published_test/.

    Returns the content of test.json.
    """
    from train.predictor import load_run
    from train.results import test
    from train.setup import resolve

    experiment = resolve(run.read_recipe(), run.path, train=False)
    results, predictions = test(load_run(run.path), experiment, "test")
    folder = RunDir(run.path / PUBLISHED)
    folder.path.mkdir(exist_ok=True)
    with whole_file(folder.predictions) as file:
        np.savez_compressed(file, allow_pickle=False, **predictions)
    write_json(folder.test, results)
    return results
