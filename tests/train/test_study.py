"""The command `train.study`: its flags, its tasks, and what it refuses. Most runs here are those of a fake trainer."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from tests.train.test_compare import IDS, make_run
from train import study
from train.errors import Diverged, InputError, Interrupted, InUse
from train.processes import Processes
from train.recipe import ModelOptions, NetFeatures, Pixels, Recipe, Stage, with_values
from train.record.directory import RunDir, write_json
from train.record.log import EpochRecord
from train.studies import engine, page, storage, tasks, varied, worker
from train.studies.definition import Definition, difference, job_name
from train.studies.leases import Claims
from train.studies.study_files import study_words
from train.studies.varied import Varied

LR = "stages.*.optimizer.learning_rate"


# Varied fields.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1e-3,1e-4", Varied(LR, (0.001, 0.0001))),
        ("rotation=0, 15", Varied("stages.*.augment.rotation", (0.0, 15.0))),
        ("stages.0.augment.flip=true,False", Varied("stages.0.augment.flip", (True, False))),
        ("images_per_class=10,20", Varied("images_per_class", (10, 20))),
        ("weight_decay=0", Varied("stages.*.optimizer.weight_decay", (0.0,))),
        ("epochs=1,2", Varied("stages.*.epochs", (1, 2))),
        ("dropout=0.1,0.5", Varied("model_options.dropout_rate", (0.1, 0.5))),
        ("model_options.widths=(1, 2),(3, 4)", Varied("model_options.widths", ([1, 2], [3, 4]))),
        ("pretrained=None,keras", Varied("pretrained", (None, "keras"))),
        ("lr=1e-4..1e-2", Varied(LR, low=1e-4, high=1e-2)),
        ("batch_size=8..64", Varied("batch_size", low=8, high=64, whole=True)),
    ],
)
def test_varied_fields(text, expected):
    assert varied.parse(text) == expected


def test_features_can_be_varied():
    found = varied.parse("features=pixels,resnet50=torchvision")
    expected = [Pixels(), NetFeatures("resnet50", "torchvision")]
    assert [varied.typed(found.path, value) for value in found.values] == expected
    assert json.loads(json.dumps(found.values)) == list(found.values)
    assert varied.shown(found.values[1]) == "resnet50 torchvision"


def test_a_range_is_logarithmic_from_a_factor_of_ten_on():
    assert [varied.parse(f"lr={r}").log for r in ("1..9", "1..10", "0.01..1")] == [
        False,
        True,
        True,
    ]
    assert not varied.parse("l2=0..1").log


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr=1", "unknown field: did you mean lr?"),
        ("foo=1", "unknown field: use a field such as lr, batch_size or rotation"),
        ("rot=1", "unknown field: did you mean rotation?"),
        ("batchsize=1", "unknown field: did you mean batch_size?"),
        ("kernl=rbf", "unknown field: did you mean probe.kernel?"),
        ("optimizer.l2=1", "unknown field optimizer: use l2"),
        (
            "stages.0.augment.foo=1",
            "unknown field foo: did you mean zoom",
        ),
        ("optimizer=adam", "is a group of fields: name one of them, stages.*.optimizer.FIELD"),
        ("stages.0.optimizr.l2=1", "unknown field optimizr: did you mean optimizer"),
        ("stages.0.optimizer.l3=1", "unknown field l3: did you mean l2"),
        ("patience=1", "use stages.*.plateau.patience or stages.*.early_stop.patience"),
        ("stages.0.optimizer=1", "is a group of fields"),
        ("stages.x.epochs=1", "x is neither the number of a stage"),
        ("seed=1,2", "use --seeds"),
        ("fold=1,2", "use --folds"),
        ("split_seed=1,2", "must be tested on the same images"),
        ("dataset=a,b", "run one study per data set"),
        ("lr", "use FIELD=VALUE,VALUE"),
        ("lr=", "has an empty value"),
        ("lr=1,,2", "has an empty value"),
        ("lr=1,1.0", "has the same value twice"),
        ("lr=fast", "is 'fast': use a number"),
        ("batch_size=1.5", "is 1.5: use a whole number"),
        ("schedule=linear", "use constant or cosine"),
        ("lr=1..1", "use LOW..HIGH"),
        ("lr=a..b", "use LOW..HIGH"),
        ("batch_size=1..2.5", "use a whole number"),
    ],
)
def test_wrong_varied_fields(text, message):
    with pytest.raises(InputError) as at:
        varied.parse(text)
    assert message in str(at.value) and "--vary" in str(at.value)


# Definitions.


def define(*vary, **fields):
    recipes = fields.pop("recipes", (Recipe(folds=2, stages=(Stage(), Stage(name="b"))),))
    found = Definition("pets", recipes, tuple(map(varied.parse, vary)), **fields)
    found.check()
    return found


def test_a_grid_has_all_settings_folds_and_seeds_once():
    definition = define("lr=1,2", "rotation=0,5,9", seeds=(3, 4))
    settings = list(definition.grid())
    assert len(settings) == definition.num_settings == 6
    jobs = [job for n, values in enumerate(settings) for job in definition.jobs(n, values)]
    assert len({job.name for job in jobs}) == 6 * 2 * 2
    last = jobs[-1]
    assert last.name == job_name(5, 1, 4) == "005/fold1/seed4"
    changed = {"fold": 1, "seed": 4, LR: 2.0, "stages.*.augment.rotation": 9.0}
    assert last.recipe == with_values(definition.recipes[0], changed)


def test_models_keep_their_own_recipes():
    recipes = Recipe(model="vade_tiny", batch_size=8), Recipe(model="gmvae_tiny", batch_size=16)
    definition = define("lr=1,2", recipes=recipes)
    jobs = [definition.jobs(n, values)[0] for n, values in enumerate(definition.grid())]
    assert [(j.recipe.model, j.recipe.batch_size) for j in jobs] == [
        ("vade_tiny", 8),
        ("vade_tiny", 8),
        ("gmvae_tiny", 16),
        ("gmvae_tiny", 16),
    ]
    assert definition.setting(0, next(definition.grid())).values == {"model": "vade_tiny", LR: 1.0}


def test_a_definition_survives_json_and_differences_are_found():
    definition = define(
        "lr=1e-3..1", "model_options.w=(1, 2),3", sampler="tpe", trials=3, prune=True
    )
    again = Definition.from_json(json.loads(json.dumps(definition.to_json())), "file")
    assert again == definition and difference(definition, again) == ""
    other = define("lr=1e-3..1", "model_options.w=(1, 2),4", sampler="tpe", trials=3, prune=True)
    assert difference(definition, other) == "--vary model_options.w: [1, 2], 3, not [1, 2], 4"
    moved = define("lr=1,2", recipes=(Recipe(dataset="a", data_dir="b"),))
    assert difference(moved, define("lr=1,2", recipes=(Recipe(dataset="c"),))) == ""
    with pytest.raises(InputError, match="file was written by another version"):
        Definition.from_json({**definition.to_json(), "format": 99}, "file")
    with pytest.raises(InputError, match="file is damaged"):
        Definition.from_json({"format": 1, "name": "x"}, "file")


@pytest.mark.parametrize(
    ("vary", "fields", "message"),
    [
        (["lr=1..2"], {}, "a grid needs a list"),
        (["lr=1"], {"trials": 3}, "--trials is for searches"),
        (["lr=1"], {"prune": True}, "--prune is for searches"),
        (["lr=1..2"], {"sampler": "tpe"}, "needs --trials"),
        ([], {"sampler": "random", "trials": 3}, "nothing to search"),
        (["lr=1", "learning_rate=2"], {}, "twice"),
        (["lr=0,1"], {}, "is 0.0: use a value above 0"),
        (["lr=0..1"], {"sampler": "tpe", "trials": 3}, "is 0.0: use a value above 0"),
        (["stages.2.epochs=1"], {}, "has 2 stages"),
        (["lr=1"], {"recipes": (Recipe(model="a"), Recipe(model="a"))}, "names a twice"),
    ],
)
def test_wrong_definitions(vary, fields, message):
    with pytest.raises(InputError, match=message):
        define(*vary, **fields)


# Flags and files.


@pytest.fixture
def parsed():
    def parse(text):
        arguments, definition, folder = study.parse(text.split())
        return definition, folder, arguments

    return parse


def test_flags(parsed):
    text = "pets --model vade_tiny gmvae_tiny --folds 5 --seeds 2 --seed 7 --vary lr=1,2 l2=0,1"
    definition, folder, _ = parsed(f"{text} --vary rotation=3 --metric macro_f1 --batch-size 8")
    assert str(folder) == "studies/pets" and definition.name == "pets"
    assert [r.model for r in definition.recipes] == ["vade_tiny", "gmvae_tiny"]
    assert {(r.folds, r.batch_size) for r in definition.recipes} == {(5, 8)}
    assert definition.seeds == (7, 8) and definition.metric == "macro_f1"
    assert [v.path.rpartition(".")[2] for v in definition.varied] == [
        "learning_rate",
        "l2",
        "rotation",
    ]
    # Each model has its own recipe.
    assert definition.recipes[0].stages != definition.recipes[1].stages


def test_the_default_name_is_that_of_models_and_data(parsed):
    definition, folder, _ = parsed("--model resnet_tiny --dataset a/photos.zip --epochs 3 --lr 0.5")
    assert definition.name == folder.name == "resnet_tiny-photos"
    (stage,) = definition.recipes[0].stages
    assert (stage.epochs, stage.optimizer.learning_rate) == (3, 0.5)


def test_a_file_is_its_flags(parsed, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'model = ["vade_tiny", "gmvae_tiny"]\ndataset = "photos.zip"\nfolds = 3\nseeds = 2\ndrop_last = false\n'
        "stages.0.augment.flip = true\nstages.0.freeze = ['a', 'b']\nmodel_options.latent = 3\n"
        "[vary]\nlr = [1e-3, 1e-4]\n'stages.0.augment.rotation' = [0, 15]\nstages.0.epochs = [1, 2]\n"
    )
    text = (
        "mine --model vade_tiny gmvae_tiny --dataset photos.zip --folds 3 --seeds 2 --no-drop-last"
        " --stages.0.augment.flip --stages.0.freeze a b --model-options latent=3"
        " --vary lr=0.001,0.0001 stages.0.augment.rotation=0,15 stages.0.epochs=1,2"
    )
    assert parsed(str(path))[:2] == parsed(text)[:2]
    assert parsed(f"{path} --seeds 4")[0].seeds == (0, 1, 2, 3)
    assert parsed(text)[0].recipes[0].model_options == ModelOptions(latent=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes = 3", "unknown field 'sedes': did you mean seeds"),
        ("vary = 3", "vary is 3: use a table"),
        ("stages.0.freeze = []", "has no value"),
        ("x =", "not valid TOML"),
        ("folds = 'five'", "mine.toml: folds is 'five': use a whole number"),
        ("name = ['a']", r"mine.toml: name is \['a'\]: use text"),
        ("name = ''", "mine.toml: name is '': use text"),
        ("model = 5", "mine.toml: model is 5: use text"),
        ("model = ['vade_tiny', true]", "mine.toml: model is True: use text"),
        ("folds = true", "mine.toml: folds is True: use a whole number"),
        ("folds = [2, 3]", r"mine.toml: folds is \[2, 3\]: use a whole number"),
        ("lr = 'fast'", "mine.toml: lr is 'fast': use a number"),
        ("seeds = 2.5", "mine.toml: seeds is 2.5: use a whole number"),
        ("metric = 'f2'", "mine.toml: metric is 'f2': use accuracy or macro_f1 or loss"),
        ("stages.0.augment.flip = 'yes'", "stages.0.augment.flip is 'yes': use true or false"),
        ("[[stages]]\nepochs = 'x'", "mine.toml: stages.0.epochs is 'x': use a whole number"),
        ("stages.0.augmnt.flip = true", "unknown field 'stages.0.augmnt': did you mean augment"),
        ("stages.0.freeze = [['a']]", r"stages.0.freeze is \['a'\]: use text"),
        ("[vary]\nlr = ['fast']", "mine.toml: vary lr is 'fast': use a number"),
    ],
)
def test_a_wrong_file_of_a_study(text, message, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        study_words(tmp_path / "mine.toml", study.file_flags())


def test_folds_of_the_smallest_class(image_folder):
    from datasets import load_dataset

    splits = load_dataset(image_folder, folds=2).splits.values()
    study.check_folds(splits, ["blue", "green", "red"], 30)
    with pytest.raises(InputError, match="class blue has only 30 images .* use at most 30 folds"):
        study.check_folds(splits, ["blue", "green", "red"], 31)
    splits = load_dataset(image_folder, folds=2, group=r"(\d)\.png").splits.values()
    with pytest.raises(InputError, match="has only 10 groups"):
        study.check_folds(splits, ["blue", "green", "red"], 11)
    with pytest.raises(InputError, match="class white has only 0 of the groups for training"):
        study.check_folds(splits, ["blue", "green", "red", "white"], 2)


# Studies, whose workers are this process, and whose trainer is fake.


class Training:
    """Writes the files of runs; `errors` are raised by the runs of these names, once."""

    def __init__(self):
        self.names, self.recipes, self.errors = [], {}, {}
        self.score = lambda recipe: recipe.stages[0].optimizer.learning_rate

    def __call__(self, recipe, workdir, resume, *, figures, logs, split, validate, writers, locked):
        name = workdir.relative_to(workdir.parents[2 if recipe.folds else 1]).as_posix()
        self.names.append(name)
        assert locked
        for make in logs:
            for epoch in range(1, 4):
                make(workdir, recipe).epoch(
                    EpochRecord(
                        epoch, epoch, "", 0, 0, 0, self.score(recipe), 0, 0, 0, 0, False, 1, 1
                    )
                )
        if name in self.errors:
            raise self.errors.pop(name)
        self.recipes[name] = recipe
        ids = IDS[recipe.fold :: recipe.folds] if recipe.folds else IDS
        make_run(workdir, ids=ids, seed=recipe.seed, split=split)
        run = RunDir(workdir)
        write_json(run.config, {"format": 3, "recipe": recipe.to_json()})
        scores = {"validation": {"accuracy": self.score(recipe), "f1": 0.5, "loss": 1.0}}
        write_json(run.test, {"split": split, **scores})


PARSE = study.parse
parse_once = functools.cache(PARSE)


class Here(Processes):
    """Does the tasks in this process."""

    def __init__(self, order, count):
        self.logs, self._processes = [order.folder], []
        opened = storage.open_storage(order.storage, order.definition)
        order = worker.Order.from_json(json.loads(json.dumps(order.to_json())))
        worker.work(Claims(opened.table), worker.StudyTasks(opened, order), poll=0.01)

    def close(self):
        pass


@pytest.fixture
def training(monkeypatch, tmp_path):
    found = Training()
    monkeypatch.setattr("train.run.run", found)
    monkeypatch.setattr(engine, "start_workers", Here)
    monkeypatch.setattr(worker.members, "groups", lambda jobs: [[job] for job in jobs])
    monkeypatch.setattr("gc.collect", lambda: None)
    monkeypatch.setattr("jax.clear_caches", lambda: None)
    monkeypatch.setattr(page, "write", lambda path, summary: None)
    monkeypatch.setattr(study, "check_data", lambda definition: engine.Data("hash", False))
    # A journal is opened in a tenth of the time.
    monkeypatch.setattr(storage, "default", lambda folder: str(folder / "study.journal"))
    # Clearing JAX's caches after each run, and tyro, take longer than all the rest.
    monkeypatch.setattr(
        study, "parse", lambda argv: (parse_once if len(argv) > 1 else PARSE)(tuple(argv))
    )
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture
def run(call):
    def run(text, status=0):
        found, out, err = call(study, *text.split())
        assert found == status, err
        return out + err

    return run


GRID = "pets --model resnet_tiny --dataset pets --folds 2 --seeds 2 --vary lr=0.5,0.25"
NAMES = [job_name(n, fold, seed) for n in (0, 1) for fold in (0, 1) for seed in (0, 1)]


def trials(folder="studies/pets"):
    url = storage.default(engine.Path(folder))
    return storage.open_storage(url, define(recipes=(Recipe(),))).study.get_trials()


def written():
    return json.loads(engine.Path("studies/pets/study.json").read_text())


def test_a_study_runs_each_job_once(training, run):
    text = run(GRID)
    assert "2 settings x 2 folds x 2 seeds = 8 runs" in text and "8 finished" in text
    assert training.names == NAMES
    recipe = training.recipes["001/fold1/seed1"]
    assert (recipe.fold, recipe.seed, recipe.stages[0].optimizer.learning_rate) == (1, 1, 0.25)
    found = written()
    assert [s["validation_mean"] for s in found["settings"]] == [0.5, 0.25] and found["best"] == 0
    assert [(t.value, t.params[LR]) for t in trials()] == [(0.5, 0.5), (0.25, 0.25)]
    again = run(GRID)
    assert training.names == NAMES and "8 finished" in again
    assert "8 finished" in run("studies/pets")
    assert training.names == NAMES


@pytest.mark.parametrize("url", ["", " --storage sqlite:///my.db"])
def test_an_interrupted_study_is_continued(url, training, run):
    training.errors[NAMES[2]] = Interrupted("saved")
    run(GRID + url, status=130)
    assert "8 finished" in run(GRID + url)
    assert training.names == [*NAMES[:3], *NAMES[2:]]


def test_failed_runs_are_tried_again_and_diverged_ones_are_not(training, run):
    training.errors = {NAMES[1]: RuntimeError("broken"), NAMES[5]: Diverged(7, "loss", "")}
    text = run(GRID, status=1)
    assert "1 run failed: 000/fold0/seed1; run the same command again" in text
    assert "000/fold0/seed1: failed: RuntimeError: broken" in text and "diverged at step 7" in text
    assert [t.state.name for t in trials()] == ["FAIL", "FAIL"]
    run(GRID)
    assert training.names == [*NAMES, NAMES[1]]
    found = {r["name"]: r["state"] for r in written()["runs"]}
    assert found[NAMES[1]] == "done" and found[NAMES[5]] == "diverged"


def test_a_study_that_cannot_start_ends_and_can_be_corrected(training, run):
    training.errors = dict.fromkeys(NAMES, InputError("no such thing: use another"))
    assert "error: no such thing: use another\n" in run(GRID, status=2)
    training.errors = {}
    run(GRID.replace("0.25", "0.125"))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_tries_its_settings_once(sampler, training, run):
    text = (
        f"pets --model resnet_tiny --dataset pets --vary lr=1e-4..1e-1 l2=0,1 --sampler {sampler}"
    )
    run(f"{text} --trials 4")
    found = trials()
    assert [t.number for t in found] == [0, 1, 2, 3] and training.names == [
        job_name(n, None, 0) for n in range(4)
    ]
    values = [t.params[LR] for t in found]
    assert len(set(values)) == 4 and all(1e-4 <= value <= 1e-1 for value in values)
    assert [t.value for t in found] == values
    rates = [r.stages[0].optimizer.learning_rate for r in training.recipes.values()]
    assert rates == values
    if sampler == "random":  # the same draws again
        run(f"{text} --trials 4 --out again")
        assert [t.params for t in trials("again")] == [t.params for t in found]


def test_a_search_is_continued_with_the_same_settings(training, run):
    text = "pets --model resnet_tiny --dataset pets --seeds 2 --vary lr=1e-4..1e-1 --sampler tpe --trials 3"
    training.errors["001/seed1"] = Interrupted("saved")
    run(text, status=130)
    before = [t.params for t in trials()]
    run(text)
    assert len(trials()) == 3 and [t.params for t in trials()][: len(before)] == before
    assert training.names == [
        "000/seed0", "000/seed1", "001/seed0", "001/seed1", "001/seed1", "002/seed0", "002/seed1"
    ]  # fmt: skip


def test_a_worse_setting_is_pruned_with_all_its_runs(training, run):
    rates = ",".join(f"{1 - i / 10}" for i in range(6))
    text = f"pets --model resnet_tiny --dataset pets --seeds 2 --vary lr={rates} --sampler random --trials 9"
    out = run(f"{text} --prune")
    found = trials()
    states = [t.state.name for t in found]
    assert set(states) == {"COMPLETE", "PRUNED"} and states[:5] == ["COMPLETE"] * 5
    best = [max(t.intermediate_values.values()) for t in found]
    pruned = [value for value, state in zip(best, states, strict=True) if state == "PRUNED"]
    assert max(pruned) <= sorted(best)[len(best) // 2]
    for number, state in enumerate(states):  # the second seed of a pruned setting does not start
        assert (f"{number:03d}/seed1" in training.names) == (state == "COMPLETE")
    assert "pruned" in out


@pytest.fixture
def tested(monkeypatch):
    """Names of the runs that were tested on a published test split."""
    monkeypatch.setattr(study, "check_data", lambda definition: engine.Data("hash", True))
    names = []

    def test_published(directory):
        names.append(directory.path.relative_to(directory.path.parents[2]).as_posix())
        make_run(directory.path / tasks.PUBLISHED)

    monkeypatch.setattr("train.studies.published.test_published", test_published)
    return names


def test_a_published_test_split_is_used_once_for_the_chosen_setting(training, run, tested):
    training.score = lambda recipe: -recipe.stages[0].optimizer.learning_rate  # 001 is better
    run(GRID)
    run(GRID)
    assert tested == NAMES[4:] and training.names == NAMES
    assert json.loads((engine.Path("studies/pets/runs") / NAMES[0] / "test.json").read_text())[
        "split"
    ] == "validation"  # fmt: skip


def test_a_published_test_split_is_not_used_while_runs_have_failed(training, run, tested):
    """The failed setting may be the better one, and no second choice is ever tested."""
    training.errors = {NAMES[0]: RuntimeError("broken")}
    text = run(GRID, status=1)  # 000 is better, but incomplete
    assert not tested and "published test images are used when all are done" in text
    assert "1 of 8 runs failed" in text and "001 (learning_rate 0.25) is chosen" in text
    run(GRID)
    assert tested == NAMES[:4]
    # As in a study of an earlier version, which tested 000 while runs of 001 had failed.
    for name in NAMES[4:]:
        shutil.rmtree(engine.Path("studies/pets/runs", name))
    table = storage.open_table(storage.default(engine.Path("studies/pets")), "pets")
    rows = table.read()
    broken = {"state": "failed", "text": "broken", "validation": None}
    table.exchange(
        [(rows[n], dataclasses.replace(rows[n], beat=99, result=broken)) for n in NAMES[4:]]
    )
    training.score = lambda recipe: 1 - recipe.stages[0].optimizer.learning_rate
    text = run(GRID)
    assert tested == NAMES[:4] and "were used for an earlier choice, 000" in text


@pytest.mark.parametrize("name", [NAMES[3], NAMES[7]])
def test_a_result_that_a_killed_worker_has_not_told_is_told_by_the_next_call(
    name, training, run, monkeypatch
):
    finished = worker.StudyTasks.finished

    def killed(self, claimed):
        if claimed[0].key == name:
            raise Interrupted("killed")
        finished(self, claimed)

    with monkeypatch.context() as patch:
        patch.setattr(worker.StudyTasks, "finished", killed)
        run(GRID, status=130)
    run(GRID)
    assert training.names == NAMES
    assert [(t.value, t.state.name) for t in trials()] == [(0.5, "COMPLETE"), (0.25, "COMPLETE")]


def test_a_result_that_a_killed_worker_has_not_recorded_is_read_from_the_run(
    training, run, monkeypatch
):
    finish = Claims.finish

    def killed(self, results):
        if NAMES[3] in results:
            raise Interrupted("killed")
        return finish(self, results)

    with monkeypatch.context() as patch:
        patch.setattr(Claims, "finish", killed)
        run(GRID, status=130)
    monkeypatch.setattr("train.studies.leases.has_ended", lambda owner: True)
    run(GRID)
    assert training.names == NAMES
    assert [(t.value, t.state.name) for t in trials()] == [(0.5, "COMPLETE"), (0.25, "COMPLETE")]


@pytest.mark.parametrize("url", ["", " --storage my.journal"])
def test_a_study_is_continued_from_another_folder(url, training, run, monkeypatch, tmp_path):
    run(GRID + url)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "8 finished" in run("../studies/pets")
    text = run(f"{GRID} --out ../studies/pets --storage other.journal", status=2)
    before = "my.journal" if url else "studies/pets/study.journal"
    assert f"was started with --storage {tmp_path / before}, but its storage other.journal" in text
    if not url:
        shutil.move(tmp_path / "studies" / "pets", "moved")
        assert "8 finished" in run("./moved")
    assert training.names == NAMES


def test_two_processes_begin_a_study_at_the_same_time(training, run, monkeypatch):
    """The second one has found no study in the folder, and then finds that of the first one in the storage."""
    run(GRID)
    monkeypatch.setattr(engine, "read_record", lambda folder: None)
    assert "8 finished" in run(GRID)
    assert training.names == NAMES
    assert "a study with other settings" in run(f"{GRID} --metric loss", status=2)


def test_a_run_that_another_process_trains_is_left_to_it(training, run):
    """As after a lease that expired while its owner was suspended: its folder is still locked."""
    training.errors[NAMES[0]] = InUse("another process is training")
    run(GRID)
    assert training.names == [NAMES[0], *NAMES]


def test_runs_of_one_program_are_claimed_together(tmp_path):
    recipe = Recipe(model="vade_tiny", features=Pixels(), folds=2)
    definition = define("lr=1,2", "batch_size=8,9", recipes=(recipe,))
    opened = storage.open_storage(str(tmp_path / "journal"), definition)
    claims = Claims(opened.table)
    engine.plan(opened, claims)
    rows = opened.table.read()
    first = claims.claim(["000/fold0/seed0"])
    done = claims.claim(["002/fold0/seed0"])
    claims.finish({done.key: {"state": "done", "text": ""}})
    order = worker.Order(str(tmp_path), "", definition, False)
    group = worker.StudyTasks(opened, order).group(first, opened.table.read())
    assert group == ["000/fold1/seed0", "002/fold1/seed0"]  # 001 and 003 have other batches
    assert len([key for key in rows if tasks.is_run(key)]) == 8
    tracked = worker.StudyTasks(opened, dataclasses.replace(order, writers=("mlflow", "wandb")))
    assert tracked.group(first, opened.table.read()) == group
    for changed in (
        {"writers": ("wandb", "other")},
        {"definition": dataclasses.replace(definition, prune=True)},
    ):
        alone = worker.StudyTasks(opened, dataclasses.replace(order, **changed))
        assert not alone.group(first, rows)


# Extensions.


def test_more_seeds_and_values_extend_a_study(training, run):
    run(GRID)
    text = run(GRID.replace("--seeds 2", "--seeds 3"))
    assert "the study in studies/pets is extended: 8 runs reused or continued, 4 new" in text
    new = [job_name(n, fold, 2) for n in (0, 1) for fold in (0, 1)]
    assert training.names == [*NAMES, *new] and "12 finished" in text
    # Settings keep their numbers in any order of the values.
    more = GRID.replace("--seeds 2", "--seeds 3").replace("lr=0.5,0.25", "lr=1,0.25,0.5")
    text = run(more)
    assert "12 runs reused or continued, 6 new" in text and "18 finished" in text
    assert training.names[12:] == [job_name(2, fold, seed) for fold in (0, 1) for seed in range(3)]
    assert [(t.value, t.params[LR]) for t in trials()] == [(0.5, 0.5), (0.25, 0.25), (1, 1)]
    assert [s["validation_mean"] for s in written()["settings"]] == [1, 0.5, 0.25]
    run(more)
    assert "18 finished" in run("studies/pets") and len(training.names) == 18
    assert "contains a study with other settings" in run(GRID, status=2)


@pytest.mark.parametrize("place", ["delete_trials", "open_storage"])
def test_an_extension_that_was_killed_is_repeated(place, training, run, monkeypatch):
    run(GRID)
    text = GRID.replace("--seeds 2", "--seeds 3")
    with monkeypatch.context() as patch:

        def killed(*arguments):
            raise Interrupted("killed")

        patch.setattr(storage, place, killed)
        run(text, status=130)
    run(text)
    assert len(training.names) == 12 and "12 finished" in run(text)
    assert [t.value for t in trials()] == [0.5, 0.25]


def test_an_extension_without_the_folders_record_is_that_of_the_storage(training, run, tmp_path):
    run(GRID)
    text = GRID.replace("--seeds 2", "--seeds 3")
    run(text)
    (tmp_path / "studies" / "pets" / "definition.json").unlink()
    assert "12 finished" in run(text) and len(training.names) == 12


def test_extensions_that_are_refused(training, run, monkeypatch, tmp_path):
    text = "pets --model resnet_tiny --dataset pets --vary lr=1,2 --sampler random --trials 2"
    run(f"{text} --out search")
    found = run(f"{text} --out search --seeds 2", status=2)
    assert "search cannot be extended: its search was made with fewer seeds or values" in found
    monkeypatch.setattr(study, "check_data", lambda definition: engine.Data("hash", True))
    monkeypatch.setattr(
        "train.studies.published.test_published",
        lambda directory: make_run(directory.path / tasks.PUBLISHED),
    )
    training.errors = {NAMES[0]: RuntimeError("broken")}
    run(GRID, status=1)
    more = GRID.replace("--seeds 2", "--seeds 3")
    claims = Claims(storage.open_table(storage.default(engine.Path("studies/pets")), "pets"))
    engine.reopen(claims)
    claims.claim([NAMES[0]])  # as another command
    assert "cannot be extended: another command is running it" in run(more, status=2)
    claims.release([NAMES[0]])
    other = f"{storage.default(engine.Path('other'))}"
    run("pets --model resnet_tiny --dataset pets --folds 2 --vary lr=0.5 --out other")
    before = len(trials("other")), training.names[:]
    assert "already has a study pets" in run(f"{more} --storage {other}", status=2)
    assert (len(trials("other")), training.names) == before
    training.names = training.names[:-2]
    assert "4 new" in run(more)
    found = run(GRID.replace("--seeds 2", "--seeds 4"), status=2)
    assert "cannot be extended: the published test images are used once" in found
    assert len(training.names) == 2 + 8 + 1 + 4 and "12 finished" in run(more)


def test_another_program_such_as_the_dashboard_shares_a_journal(tmp_path):
    """Optuna's own lock has another name: it would wait for 30 seconds if its file existed, and then remove it."""
    path = tmp_path / "journal"
    opened = storage.open_storage(str(path), define("lr=1,2", metric="loss"))
    assert opened.study.metric_names == ["validation loss"]
    assert not path.with_name("journal.lock").exists()
    other = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    (study,) = other.get_all_studies()
    other.set_study_user_attr(study._study_id, "note", "from the dashboard")
    opened.enqueue([{"lr": 1}])
    assert opened.study.user_attrs == {"note": "from the dashboard"}
    assert len(other.get_all_trials(study._study_id)) == 1


# What is refused.


def test_another_study_is_refused(training, run, tmp_path):
    run(GRID)
    for changed, message in [
        ("--seeds 1", "seeds: "),
        ("--seeds 3 --seed 1", "seed: 0, not 1"),
        ("--vary lr=0.5", "--vary stages.*.optimizer.learning_rate: 0.5, 0.25, not 0.5"),
        ("--vary lr=0.5,0.125", "0.5, 0.25, not 0.5, 0.125"),
        (
            "--vary l2=0.5,0.25",
            "it varies stages.*.optimizer.learning_rate, not stages.*.optimizer.l2",
        ),
        ("--vary lr=0.5,0.25,0.125 --batch-size 7", "0.25, not 0.5, 0.25, 0.125"),
        ("--metric loss", "metric: 'accuracy', not 'loss'"),
        ("--batch-size 7", "(batch_size: "),
    ]:
        words = GRID.split(" --vary")[0] if "vary" in changed else GRID
        text = run(f"{words} {changed}", status=2)
        assert "a study with other settings" in text and message in text
    text = run(f"{GRID} --out elsewhere --storage studies/pets/study.journal", status=2)
    assert "already has a study pets" in text and not os.path.exists("elsewhere/definition.json")
    assert training.names == NAMES


def test_a_storage_that_is_gone_and_another_version_are_refused(training, run, tmp_path):
    run(GRID)
    path = tmp_path / "studies" / "pets" / "definition.json"
    shutil.move(path.with_name("study.journal"), tmp_path / "kept")
    assert "its storage studies/pets/study.journal is missing" in run(GRID, status=2)
    shutil.move(tmp_path / "kept", path.with_name("study.journal"))
    recorded = json.loads(path.read_text())
    path.write_text(json.dumps({**recorded, "data": {"fingerprint": "x", "has_test_split": False}}))
    assert "the data of the study in studies/pets have changed" in run(GRID, status=2)
    path.write_text(json.dumps({**recorded, "definition": {"format": 0}}))
    assert "was written by another version of the program" in run(GRID, status=2)
    path.write_text("{")
    assert "definition.json is damaged" in run(GRID, status=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("--model", "--model has an empty value"),
        ("--dataset pets --model", "--model has an empty value"),
        ("--model resnet_tiny --model", "--model has an empty value"),
        ("--model resnet_tiny --vary lr=1 --vary", "--vary has an empty value"),
        ("--model nonet", "unknown model 'nonet'"),
        ("--model resnet_tiny --fold 1 --folds 2", "--fold is for single runs"),
        ("--model resnet_tiny --seeds 0", "--seeds is 0"),
        ("--model resnet_tiny --workers 0", "--workers is 0"),
        ("a/b --model resnet_tiny", "is neither the name nor the folder of a study"),
        ("./ --model resnet_tiny", "./ is a folder without a study (no definition.json): use the folder of a study"),
        ("--model resnet_tiny --storage mysql://u:secret@host/x", "mysql://u@host/x is not supported"),
        ("--model resnet_tiny --storage nowhere/x.journal", "its folder does not exist"),
        ("--model resnet_tiny --storage sqlite:///nowhere/x.db", "does not exist"),
        ("--model resnet_tiny --storage .", "is a folder"),
        ("--model resnet_tiny --storage postgresql://u:secret@localhost:1/x", "u@localhost:1/x does not respond"),
        ("--model vade --lr 1", "ambiguous"),
        ("--model resnet_tiny --epochs 0", "--stages.0.epochs is 0"),
        ("missing.toml", "missing.toml does not exist"),
        ("--writers nowhere", "unknown run-log writer"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line(text, message, training, run, tmp_path):
    found = run(text, status=2)
    assert message in found and found.count("error: ") == 1 and "secret" not in found
    assert not training.names and not os.path.exists("studies/nowhere")


# With workers of their own.


@pytest.mark.slow
def test_workers_train_and_a_killed_one_is_replaced(image_folder, command_environment, tmp_path):
    """The first command loses its worker; the second one has two."""
    command = [
        *[sys.executable, "-m", "train.study", "pens", "--model", "tests.registered_net:net"],
        *["--dataset", str(image_folder), "--folds", "2", "--vary", "lr=0.01,0.1", "--epochs", "2"],
        *["--batch-size", "8"],
    ]
    options = {"cwd": tmp_path, "env": command_environment, "text": True}
    first = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, **options)
    folder = tmp_path / "studies" / "pens"
    while first.poll() is None and not list(folder.glob("runs/*/*/*/checkpoints/*")):
        pass
    first.kill()
    first.communicate()
    done = subprocess.run([*command, "--workers", "2"], capture_output=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "4 finished" in done.stdout and (folder / "study.html").exists()
    assert {
        r.parent.relative_to(folder / "runs").as_posix() for r in folder.rglob("test.json")
    } == {job_name(n, fold, 0) for n in (0, 1) for fold in (0, 1)}
    assert not (folder / "workers").exists() or list((folder / "workers").iterdir())
