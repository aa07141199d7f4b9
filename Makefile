# Everything a newcomer needs: `make quickstart` runs the main job on shipped data, `make test` passes the tests.
# Neither needs anything before it but Python 3.11 (3.12 and 3.13 are locked for and not tested yet).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Apache Beam keeps protobuf below 7, so that its tests have an environment of their own; without
# TensorFlow (hence --noconftest), which preparation does not need.
BEAM_VENV ?= .venv-beam
# Install from a folder of wheels in place of the network: make install WHEELS=wheels (see `make wheels`).
WHEELS ?=
SOURCE := $(if $(WHEELS),--no-index --find-links $(WHEELS))
RUN ?= runs/quickstart

.PHONY: help install beam quickstart test test-slow lint typecheck format schema lock wheels clean

help:
	@echo "make quickstart   train, measure, export and serve the dense chapter on shipped digits"
	@echo "make test         run the tests (make test-slow: those above 20 seconds too)"
	@echo "make lint         ruff and mypy (make format: let ruff mend what it can)"
	@echo "make wheels       download what an installation needs into wheels/, for machines without a network"
	@echo "make beam         make .venv-beam from requirements-beam.lock: what pipelines.prepare needs, without TensorFlow"
	@echo "make install      make .venv from requirements.lock (WHEELS=folder: from downloaded wheels)"

install: $(VENV)/.installed

# `compat` puts this folder on the path as a whole: otherwise Python, started in the folder above, would take a clone
# called tfbigmodel for the package itself.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(SOURCE) -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation \
	    --config-settings editable_mode=compat -e .
	@touch $@

beam: $(BEAM_VENV)/.installed

$(BEAM_VENV)/.installed: requirements-beam.lock
	$(PYTHON) -m venv $(BEAM_VENV)
	$(BEAM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(SOURCE) -r requirements-beam.lock
	@touch $@

quickstart: install
	$(BIN)/python -m tfbigmodel.train --config configs/dense.yaml --workdir $(RUN)
	$(BIN)/python -m tfbigmodel.evaluate --workdir $(RUN)
	$(BIN)/python -m tfbigmodel.export --workdir $(RUN) --output exported/quickstart
	$(BIN)/python examples/ask_server.py --workdir $(RUN) --model_base_path exported/quickstart

test test-slow: export BEAM_PYTHON := $(abspath $(BEAM_VENV))/bin/python
test: TESTS := -m "not slow"
test test-slow: install beam
	$(BIN)/python -m pytest $(TESTS)
	$(BEAM_PYTHON) -m pytest --noconftest tests/pipelines/prepare/test_prepare.py

lint: install typecheck
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: install
	$(BIN)/python -m tfbigmodel.schema > configs/schema.json

# Needs uv (pip install uv). No index address is written, so that the file serves any mirror.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --quiet --upgrade --output-file requirements.lock
	uv pip compile --group prepare --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --quiet --upgrade --output-file requirements-beam.lock

wheels:
	$(PYTHON) -m pip download --disable-pip-version-check -r requirements.lock -d wheels
	$(PYTHON) -m pip download --disable-pip-version-check -r requirements-beam.lock -d wheels

clean:
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
