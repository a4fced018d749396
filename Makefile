# `make run` and `make test` on a fresh machine: Python 3.11 or newer and make are all that has to be there.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test bench soak load-test lint clean setup test-kernels test-arm64
.DELETE_ON_ERROR:

# The main job on a real example: cold starts beside restored copies of one snapshot.
run: setup
	$(BIN)/snapruntime run examples/pandas_report/handler.py --compare

# The runtime beside cold starts, stock CRIU and os.fork(); about 20 minutes. Less: make bench ARGS=--quick
bench: setup
	$(BIN)/snapruntime bench $(ARGS)

# In three processes, kept apart by tests/boxed: two processors have time for them, since they often wait. (Plain
# pytest does as well, and takes about twice as long.)
test: lint setup
	.ci/servers
	$(BIN)/pytest --dist loadfile --no-loadscope-reorder --tx '3*popen//python=tests/boxed'

# 10,000 invocations while things are killed, stopped, filled up and damaged around them; ends within 10 minutes.
soak: setup
	$(BIN)/python -m snapruntime.bench.soak --report build/soak

# The same on stock kernels and on arm64: emulated machines, made of Debian's packages and kept in the cache folder; about
# a quarter of an hour. ARGS names machines, or is --record, which keeps what came of it in docs/platforms.
test-kernels test-arm64: $(READY)
	PYTHONPATH=tests $(BIN)/python -m machines $@ $(ARGS)

# `snapruntime serve` under wrk, beside other ways of serving; the report goes to build/load.md. About three minutes.
load-test: setup
	.ci/servers
	$(BIN)/python -m snapruntime.bench.load --report build/load $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A CRIU that works on this kernel; at once where there is one already.
setup: $(READY)
	$(BIN)/snapruntime setup

# The Dockerfile's image, tried in containers: with docker or podman, from nothing in about 10 minutes.
.PHONY: container-test
container-test: $(READY)
	$(BIN)/python .ci/containers $(ARGS)

# What the image's Python packages are: .ci/requirements.lock, with hashes, for x86_64 and arm64.
.PHONY: lock
lock: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	| $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
	    --no-annotate --output-file .ci/requirements.lock pyproject.toml -

$(READY): pyproject.toml .ci/venv .ci/link
	.ci/venv $(PYTHON) $(VENV)
	@echo "Installing snapruntime and what its tests need into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	.ci/link $(BIN)/python
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
