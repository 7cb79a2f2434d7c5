# make run    install into .venv and train SAM-AlexNet on the included data (minutes on a CPU)
# make test   install with the test tools; lint, format, types, tests
#
# An existing environment keeps its Python; to change it, run `make clean` or set VENV=elsewhere.

PYTHON ?= python3
VENV ?= .venv
LOWEST = .venv-lowest
PARITY = .venv-parity
DOCS = .venv-docs

SHELL = /bin/bash
python = $(VENV)/bin/python
needs = pyproject.toml $(wildcard constraints/*.txt)

.PHONY: help run test test-fast test-all test-lowest test-long parity docs bench bench-gpu record constraints clean environments
.DELETE_ON_ERROR:

help:
	@echo "make run          train SAM-AlexNet on the included synthetic images, with its quick recipe"
	@echo "make test         lint, format, types and tests, as CI runs them"
	@echo "make test-fast    the tests that compile little, in under two minutes"
	@echo "make test-all     the same on Python 3.11 and on Python 3.13"
	@echo "make test-lowest  a fast subset of the tests with the lowest versions of all dependencies (needs Python 3.11)"
	@echo "make parity       compare with torch and torchvision, and log to MLflow and wandb, in a separate environment"
	@echo "make test-long    tests that take too long for CI, such as more of the comparison with torch"
	@echo "make docs         build the documentation into site/, in a separate environment; open site/index.html"
	@echo "make bench        time three nets on this machine, alongside torch and Keras if they are installed"
	@echo "make bench-gpu    measure a GPU, if there is one (benchmarks.gpu)"
	@echo "make record       copy the ledgers in results/ (or LEDGER=file) to benchmarks/results/ and docs/"
	@echo "make constraints  update the tested versions in constraints/ (needs Python 3.11, 3.12, 3.13)"
	@echo "make environments install the dependencies of the commands above in advance"
	@echo "make clean        remove the environments and caches that make created"

run: $(VENV)/.installed
	@$(python) -m train.run --model sam_alexnet --quick

test: $(VENV)/.installed-test
	@$(python) -m ruff check --quiet .
	@$(python) -m ruff format --quiet --check --output-format concise . || \
	  { echo "error: not formatted: run $(python) -m ruff format ." >&2; exit 1; }
	@# Types are checked by one process, while the tests run: alone, it would leave the other cores idle.
	@found=$$(mktemp); $(python) -m mypy > "$$found" 2>&1 & types=$$!; \
	trap 'kill $$types 2>/dev/null; rm -f "$$found"' EXIT; \
	status=0; \
	$(python) -m pytest || status=1; \
	wait $$types || status=1; \
	cat "$$found"; exit $$status

test-fast: $(VENV)/.installed-test
	@$(python) -m pytest -m "not slow and not long"

environments: $(VENV)/.installed-test $(LOWEST)/.installed-lowest $(PARITY)/.installed-parity $(DOCS)/.installed-docs

# One environment per version: .venv if it has that Python (or does not exist yet and python3 has it), else
# .venv-3.x.
test-all:
	@set -e; for version in 3.11 3.13; do python=$$($(find_python)); done; \
	for version in 3.11 3.13; do \
	  python=$$($(find_python)); \
	  venv=.venv-$$version; \
	  has=$$(.venv/bin/python $(print_version) 2>/dev/null || $(PYTHON) $(print_version) 2>/dev/null || true); \
	  if [ "$$has" = $$version ]; then venv=.venv; fi; \
	  echo "== Python $$version in $$venv"; \
	  $(MAKE) --no-print-directory test PYTHON="$$python" VENV="$$venv"; \
	done

# Tests that read and write images and checkpoints, with the lowest versions that pyproject.toml allows.
test-lowest: $(LOWEST)/.installed-lowest
	@$(LOWEST)/bin/python -m pytest tests/train/test_checkpoints.py tests/zoo/test_pretrained_readers.py \
	  $(addprefix tests/datasets/test_,images.py resampling.py fast.py synthetic_pigs.py folder.py duplicates.py npz.py)

$(LOWEST)/.installed-lowest: $(needs)
	@set -e; version=3.11; python=$(PYTHON); \
	test "$$($(PYTHON) $(print_version) 2>/dev/null)" = $$version || python=$$($(find_python)); \
	test -x $(LOWEST)/bin/python || $$python -m venv $(LOWEST); \
	echo "installing the lowest versions into $(LOWEST) (minutes the first time) ..."; \
	$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check -c constraints/lowest.txt -e '.[test]'
	@touch $@

# torch and JAX in one environment, and the tests that compare them or log to a tracker. pip installs torch's CPU build
# if its settings provide one.
parity: $(PARITY)/.installed-parity
	@$(PARITY)/bin/python -m pytest tests/torchvision_parity tests/benchmarks/test_torch_nets.py \
	  tests/train/test_trackers.py

test-long: $(PARITY)/.installed-parity
	@$(PARITY)/bin/python -m pytest -m long

$(PARITY)/.installed-parity: $(needs)
	@$(MAKE) --no-print-directory VENV=$(PARITY) $(PARITY)/.installed-test
	@echo "installing torch, MLflow and wandb into $(PARITY) ..."
	@$(PARITY)/bin/python -m pip install -qq --disable-pip-version-check -r constraints/parity.txt
	@touch $@

# The site. API pages are generated from the sources, which are read but not imported: the environment has no JAX.
# Not --quiet, because mkdocs would then not count warnings and --strict would not fail.
docs: $(DOCS)/.installed-docs
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict

$(DOCS)/.installed-docs: pyproject.toml
	@echo "installing mkdocs into $(DOCS) ..."
	@test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $(DOCS)/requirements.txt
	@$(DOCS)/bin/python -m pip install -qq --disable-pip-version-check -r $(DOCS)/requirements.txt
	@touch $@

# GPU measurements, on a machine with a GPU; DRY=--dry-run tests the command anywhere. Uses $(PYTHON) if it has all
# packages, in any version, since a GPU machine may have no network.
GPU = --out results/gpu --minutes 25
bench-gpu:
	@set -e; python=$(PYTHON); \
	if lacks=$$($(PYTHON) -c "$$missing_packages" 2>/dev/null); then \
	  echo "using $(PYTHON), which has all packages"; \
	else \
	  echo "$(PYTHON) lacks $$lacks: using $(VENV)"; \
	  $(MAKE) --no-print-directory $(VENV)/.installed; python=$(python); \
	fi; \
	$$python -m benchmarks.gpu $(GPU) $(DRY)

# Prints the packages of pyproject.toml that a Python lacks, and fails if there are any.
define missing_packages
import re, sys, tomllib
from importlib.metadata import PackageNotFoundError, version
needed = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]
lacks = []
for name in (re.match(r"[\w-]+", text)[0] for text in needed):
    try:
        version(name)
    except PackageNotFoundError:
        lacks.append(name)
print(*lacks, sep=", ")
sys.exit(bool(lacks))
endef
export missing_packages

bench: $(VENV)/.installed
	@$(python) -m benchmarks.throughput --models sam_alexnet deconv_alexnet_2 mobilenet_v2 --batch-sizes 16 \
	  --peers torch keras --rounds 3

LEDGER ?= $(wildcard results/*.json)
record: $(VENV)/.installed
	@test -n "$(LEDGER)" || { echo "error: no ledger in results/: run $(python) -m train.reproduce first" >&2; exit 2; }
	@set -e; for ledger in $(LEDGER); do $(python) -m benchmarks.record --ledger "$$ledger"; done
	@$(python) -m benchmarks.tables

# The versions that a plain install of the tests gets today, on each Python; and on the first Python, the lowest
# versions that pyproject.toml allows.
constraints:
	@set -e; lowest='$(lowest_bounds)'; for kind in 3.11 3.12 3.13 lowest; do \
	  version=$${kind/lowest/3.11}; \
	  python=$$($(find_python)); \
	  folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	  echo "resolving for Python $$version ($$kind) ..."; \
	  $$python -m venv "$$folder"; \
	  touch "$$folder/bounds.txt"; what=Tested; file=constraints-$$version; \
	  if [ $$kind = lowest ]; then \
	    $$python -c "$$lowest" \
	      > "$$folder/bounds.txt"; \
	    what="The lowest admitted"; file=lowest; \
	  fi; \
	  "$$folder/bin/python" -m pip install -qq --disable-pip-version-check -c "$$folder/bounds.txt" -e '.[test]'; \
	  { echo "# $$what versions for Python $$version; made by \`make constraints\`."; \
	    "$$folder/bin/python" -m pip freeze --exclude-editable; } > "$$folder/constraints.txt"; \
	  mv "$$folder/constraints.txt" constraints/$$file.txt; \
	  rm -rf "$$folder"; \
	done

clean:
	rm -rf .venv .venv-3.* $(LOWEST) $(PARITY) $(DOCS) site build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find zoo datasets train benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.installed: $(needs)
	@$(call install,.)
	@touch $@

$(VENV)/.installed-test: $(needs)
	@$(call install,.[test])
	@touch $@ $(VENV)/.installed

# "a>=1.2.3,<2" as a==1.2.3, and "a>=1.2,<2" as the last release of 1.2, a~=1.2.0.
lowest_bounds = import tomllib; \
  project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
  bounds = (r.partition(",")[0].split(">=") for r in project["dependencies"] + project["optional-dependencies"]["test"]); \
  print(*(f"{n}=={v}" if v.count(".") == 2 else n + "~=" + v + ".0" * (2 - v.count(".")) for n, v in bounds), sep="\n")

print_version = -c 'import sys; print("%d.%d" % sys.version_info[:2])'

# The command for Python $version, with or without pyenv (whose shims also exist for inactive versions).
find_python = { \
  for candidate in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python; do \
    if "$$candidate" -c '' 2>/dev/null; then echo "$$candidate"; exit 0; fi; \
  done; \
  echo "error: no Python $$version here: install it (as python$$version on the PATH, or with pyenv)" >&2; \
  exit 1; \
}

# Installs into the environment, with the tested versions for its Python. pip prints only errors.
install = set -e; \
  if ! $(python) -c '' 2>/dev/null; then \
    command -v $(PYTHON) >/dev/null || { echo "error: no $(PYTHON) here: install Python 3.11 to 3.13" >&2; exit 1; }; \
    $(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v[:2] <= (3, 13) else "error: $(PYTHON) is Python %d.%d: use one of 3.11 to 3.13, such as make PYTHON=python3.12" % v[:2])'; \
    $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; \
  fi; \
  version=$$($(python) $(print_version)); \
  echo "installing into $(VENV) (Python $$version; minutes the first time) ..."; \
  $(python) -m pip install -qq --disable-pip-version-check \
    -c constraints/constraints-$$version.txt -e '$(1)'
