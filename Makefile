# `make run` and `make test` on a fresh machine: Python 3.11 or newer and make are all that has to be there.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test bench lint clean setup
.DELETE_ON_ERROR:

# The main job on a real example: cold starts beside restored copies of one snapshot.
run: setup
	$(BIN)/snapruntime run examples/pandas_report/handler.py --compare

# The runtime beside cold starts, stock CRIU and os.fork(); about 20 minutes. Less: make bench ARGS=--quick
bench: setup
	$(BIN)/snapruntime bench $(ARGS)

test: lint setup
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A CRIU that works on this kernel; at once where there is one already.
setup: $(READY)
	$(BIN)/snapruntime setup

$(READY): pyproject.toml .ci/venv
	.ci/venv $(PYTHON) $(VENV)
	@echo "Installing snapruntime and what its tests need into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
