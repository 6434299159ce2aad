.PHONY: setup repro test check format lock clean
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

# DVC runs the stages through a shell: they must find this environment's commands.
export PATH := $(CURDIR)/$(BIN):$(PATH)

setup: $(VENV)/.ready ## make .venv with everything in requirements.lock

$(VENV)/.ready: requirements.lock pyproject.toml scripts/setup.sh
	PYTHON=$(PYTHON) sh scripts/setup.sh $(VENV)
	touch $@

repro: setup ## run the pipeline: phantoms to report
	dvc repro

test: setup ## run the test suite
	pytest

check: setup ## lint, types, layers
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: setup
	ruff check --fix .
	ruff format .

lock: ## resolve the dependencies anew
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -o requirements.lock

clean:
	rm -rf $(VENV) .state
