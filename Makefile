# Works on a fresh clone with nothing but Python 3.10 to 3.13 and make.

PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3.10 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
MODEL ?= fetal_head
RECIPE := models/training/recipes/$(MODEL).toml
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# Processes that share the tests; who is idle takes from the other's end, so a file is rarely split.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo picture test test-all check bench train quantize schema clean

demo: $(VENV)/.demo
	$(BIN)/edge-runtime demo

# The README's picture again, by today's models: only what was drawn, no patient's image.
picture: $(VENV)/.demo
	$(BIN)/edge-runtime demo --out build/picture
	cp build/picture/phantoms.png docs/overlay.png

test: $(VENV)/.test mosquitto
	$(PYTEST) -m "not slow and not train"

test-all: $(VENV)/.test mosquitto postgresql
	$(PYTEST) -m "not train"

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run.py

# One of fetal_head, carotid, lungs, from the images to the bundle in models/; how long: models/training/README.md.
train: $(VENV)/.train
	$(BIN)/python -m models.training.train $(MODEL)
	@if grep -Eq '^(folds|cross_conformal) = ' $(RECIPE); then \
		$(BIN)/python -m models.training.folds $(MODEL); fi
	@if grep -q '^refit = true' $(RECIPE) && ! grep -q '^folds = ' $(RECIPE); then \
		$(BIN)/python -m models.training.train $(MODEL) --measured; fi
	$(BIN)/python -m models.training.ship $(MODEL)

# A shipped model's INT8 and FP16 graphs again, gate included: the same bytes as models/$(MODEL).
quantize: $(VENV)/.test
	rm -rf build/bundle && mkdir -p build
	$(BIN)/edge-runtime quantize models/$(MODEL)/model.onnx --recipe calibration/$(MODEL)/recipe.toml \
		--frames $(DATA)/$(MODEL)/images --out build/bundle \
		$(addprefix --without ,$(wildcard models/$(MODEL)/held_out_subjects.txt))

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 found; install one or say make PYTHON=/path/to/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.test $(VENV)/.train: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[$*]'
	@touch $@

# The real broker and the real database, from the system's packages where that is allowed; tests that need one say so
# when it is missing.
.PHONY: mosquitto postgresql
mosquitto postgresql:
	@command -v $@ >/dev/null || test -x /usr/sbin/$@ || ls /usr/lib/$@/*/bin/initdb >/dev/null 2>&1 || { \
		command -v apt-get >/dev/null && test "$$(id -u)" = 0 \
		&& apt-get update -qq >/dev/null && apt-get install -y -qq $@ >/dev/null; } \
		|| echo "$@ is not installed: its tests are skipped"

schema: $(VENV)/.test
	$(BIN)/python -c "import sys; from edge_runtime.records import json_schema; sys.stdout.buffer.write(json_schema())" > docs/finding.schema.json
	$(BIN)/python -c "import sys; from edge_runtime.sync.asyncapi import document; sys.stdout.buffer.write(document())" > docs/asyncapi.json

clean:
	rm -rf $(VENV) build dist edge-runtime-demo
