"""The environment that runs record: versions, and the commit of the code that runs."""

import subprocess

import PIL
import pytest

import zoo
from benchmarks import command, record, tables
from train.record.environment import is_checkout, own_commit, versions

OURS = '[project]\nname = "jax-zoo"\n'


@pytest.fixture
def repository(tmp_path):
    """Make a repository with one commit: `repository(name, pyproject)` returns its folder and its commit."""

    def make(name, pyproject):
        root = tmp_path / name
        (root / "lib" / "site-packages" / "train").mkdir(parents=True)
        (root / "pyproject.toml").write_text(pyproject)

        def git(*words):
            identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
            done = subprocess.run(
                ["git", *identity, *words], cwd=root, capture_output=True, text=True, check=True
            )
            return done.stdout.strip()

        git("init", "-q")
        git("add", "pyproject.toml")
        git("commit", "-q", "-m", name)
        own_commit.cache_clear()
        return root, git("rev-parse", "HEAD")

    return make


def test_a_checkout_records_its_own_commit(repository, monkeypatch):
    root, commit = repository("ours", OURS)
    assert own_commit(root) == (commit, False)
    # As in a hook of another repository.
    other, _ = repository("other", OURS + "# other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert own_commit(root) == (commit, False)
    (root / "pyproject.toml").write_text(OURS + "# changed")
    own_commit.cache_clear()
    assert own_commit(root) == (commit, True)


@pytest.mark.parametrize("pyproject", ['[project]\nname = "thesis"\n', "", "[project", OURS])
def test_a_repository_around_the_package_is_not_recorded(repository, pyproject):
    """An environment inside of the user's project, which may even be a copy of this one."""
    root, _ = repository("theirs", pyproject)
    installed = root / "lib" / "site-packages"
    assert own_commit(installed) == ("", False)
    (installed / "pyproject.toml").write_text(OURS)  # a source tree without its own repository
    own_commit.cache_clear()
    assert own_commit(installed) == ("", False)
    assert is_checkout(root) == (pyproject == OURS)


def test_the_version_is_recorded():
    assert versions()["jax-zoo"] == zoo.__version__
    assert versions()["pillow"] == PIL.__version__


@pytest.mark.parametrize("module", [record, tables], ids=lambda module: module.__name__)
def test_commands_that_write_into_the_repository_refuse_an_installed_package(
    call, tmp_path, monkeypatch, module
):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(module, "write_json" if module is record else "rendered", None)
    status, out, err = call(module)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"runs from {tmp_path}, which is not a source tree: run it in a clone" in err


def test_runs_of_an_installed_package_are_not_recorded(tmp_path, monkeypatch):
    env = {"git_commit": "", "git_dirty": False}
    (tmp_path / "test.json").write_text("{}")
    monkeypatch.setattr(record.RunDir, "read_json", lambda self, path: env)
    monkeypatch.setattr(record.RunDir, "read_recipe", lambda self: None)
    monkeypatch.setattr(record.RunDir, "read_summary", lambda self: [])
    with pytest.raises(zoo.InputError, match="from uncommitted code or an installed package"):
        record.record(record.RunDir(tmp_path))
