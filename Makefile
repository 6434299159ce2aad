.PHONY: setup repro test check format lock clean tools hooks licences audit sbom scan-secrets lint-workflows run-workflow
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
BASE ?= origin/main
PYTHON ?= python3

# DVC runs the stages through a shell: they must find this environment's commands.
export PATH := $(CURDIR)/$(BIN):$(PATH)

setup: $(VENV)/.ready ## make .venv with everything in requirements.lock
	@sh scripts/mongod.sh $(VENV)

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
	uv pip compile --group tools --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --no-header -o requirements-tools.lock

tools: $(TOOLS)/.ready ## tools for the supply chain, in an environment of their own

$(TOOLS)/.ready: requirements-tools.lock
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-tools.lock
	touch $@

hooks: setup tools ## lint and look for secrets before each commit
	$(TOOLS)/bin/pre-commit install

licences: setup ## docs/dependencies.md: the dependencies and their licences
	$(BIN)/python scripts/licences.py

audit: tools ## known vulnerabilities of what requirements.lock names; asks the package index
	@$(TOOLS)/bin/pip-audit --requirement requirements.lock --disable-pip --require-hashes --strict \
		--progress-spinner off || { echo "make audit: what is above is a known vulnerability (then raise its bound" \
		"in pyproject.toml and run make lock), or the package index could not be asked: it takes a network without a mirror." >&2; \
		exit 1; }

sbom: setup tools ## reports/sbom.json: what is installed, as CycloneDX
	mkdir -p reports
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file reports/sbom.json $(BIN)/python

scan-secrets: tools ## look for passwords and keys in all that Git tracks # pragma: allowlist secret
	git ls-files -z -- . ':!requirements*.lock' ':!dvc.lock' ':!docs/dependencies.md' | \
		xargs -0 $(TOOLS)/bin/detect-secrets-hook --exclude-lines '_REVISION = |"md5":.' # pragma: allowlist secret

lint-workflows: tools ## zizmor and actionlint; shellcheck on the workflows' shell and the scripts that they run
	$(TOOLS)/bin/zizmor --offline .github/workflows
	$(TOOLS)/bin/actionlint -shellcheck $(TOOLS)/bin/shellcheck
	$(TOOLS)/bin/shellcheck .ci/run scripts/*.sh

run-workflow: ## results.yml on this machine, as for a pull request of HEAD to BASE; needs act
	sh scripts/act.sh $(BASE)

clean:
	rm -rf $(VENV) $(TOOLS) .state
