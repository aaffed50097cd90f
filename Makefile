# make reproduce   everything: environment, data, range test, 15 models, report
# make test        the tests, in minutes
# make test-system what needs a cluster, several ranks, PostgreSQL or minutes
# make quick       the same way through in minutes: one epoch of 10,000 images
# make ui          the MLflow UI on http://127.0.0.1:5000
# make image       the container's image, lenet5-reproduction
# make test-image  the image built and tried, where a container engine runs
# make test-faults the program killed, its disk full, its store gone, and what that cost: docs/reliability.md; an hour
# make soak        200 trials in one go: memory, open files, the store's speed
# make scaling     what a trial costs beside its training, here and on Ray: docs/scaling.md
# make cluster     the study on two Ray nodes and PostgreSQL, one node killed, beside the plain run: docs/scaling.md
# make bench       the speed, beside what a user would run instead; takes about 20 minutes
# make lock        resolve the versions anew
# make audit       what is known against the locked versions, beside what docs/security.md accepts; asks PyPI
# make sbom        sbom.cdx.json, what the environment is made of, as CycloneDX

# What make tells other makes of its command line is in words that no shell can read, and launchers of ranks hand all
# variables to a shell.
unexport MAKEFLAGS MAKEOVERRIDES MFLAGS

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/installed
# An environment has its place written into its programs: one that was moved or copied with its folder is made anew.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
CLEAR := --clear
endif
# As in `make image IMAGE_OPTIONS="--build-arg BASE_IMAGE=debian@sha256:…"`.
IMAGE_OPTIONS ?=
ACCEPTED = $(shell grep '^| `[A-Z]' docs/security.md | cut -d'|' -f2 | tr -d '`')
COMMIT = $(shell $(PYTHON) -I reproduce/training/checkout.py 2>/dev/null || echo unknown)

# Installs a package where this is root on Debian or Ubuntu, and says so first; fails elsewhere.
with_apt = { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing $(1) by apt-get, for the tests" && \
    { apt-get install -qq --yes --no-install-recommends $(1) >/dev/null 2>&1 || { apt-get update -qq && \
    apt-get install -qq --yes --no-install-recommends $(1) >/dev/null; }; }; }

.PHONY: reproduce quick report test test-system test-image test-faults soak scaling cluster image bench lint ui env lock audit sbom clean

reproduce: env
	$(BIN)/reproduce main

quick: env
	$(BIN)/reproduce main --epochs 1 --train-size 10000

report: env
	$(BIN)/reproduce report

ui: env
	$(BIN)/reproduce ui

image:
	docker build $(IMAGE_OPTIONS) --build-arg COMMIT=$(COMMIT) --tag lenet5-reproduction:0.1.0 --tag lenet5-reproduction .

test: env lint tests/validator/.venv/installed .venv/browser
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 -m "not (system or image or faults)"

test-system: env .venv/postgresql
	$(BIN)/python -m pytest -m "system and not (image or faults)"

test-image: env
	$(BIN)/python -m pytest -m image

# The table is written also where something was lost.
test-faults: env
	REPRODUCE_LEDGER=docs/faults.json $(BIN)/python -m pytest -m "faults or counted"; \
	    status=$$?; $(BIN)/python tools/fault_table.py; exit $$status

soak: env
	$(BIN)/python bench/soak.py

scaling: env
	$(BIN)/python bench/scaling.py

cluster: env
	$(BIN)/python bench/cluster.py $(CLUSTER_COMMAND)

bench: env bench/.venv/installed
	$(BIN)/reproduce data
	$(BIN)/python bench/run.py

# A Chromium for the page's tests, where one can be had.
.venv/browser: $(STAMP)
	@for name in chromium chromium-browser google-chrome; do command -v $$name; done | grep -q . || \
	    { echo "installing a Chromium, for the page's tests" && \
	        $(BIN)/playwright install $$([ "$$(id -u)" != 0 ] || echo --with-deps) chromium >/dev/null 2>&1; } || \
	    $(call with_apt,chromium) || \
	    echo "no Chromium here: the page's tests are skipped; install the package chromium to have them"
	@touch $@

# A PostgreSQL for the tests of a shared store, likewise. The cluster that Debian makes with it is not used.
.venv/postgresql: $(STAMP)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || $(call with_apt,postgresql) || \
	    echo "no PostgreSQL here: the tests of a shared store are skipped; install the package postgresql to have them"
	@touch $@

# What needs other versions than the study has an environment of its own.
bench/.venv/installed tests/validator/.venv/installed: %/.venv/installed: %/requirements.lock | env
	$(PYTHON) -m venv $*/.venv
	VIRTUAL_ENV=$*/.venv $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes $*/requirements.lock
	@touch $@

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	    { echo "error: this needs Python 3.11: install it, or say where it is: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(CLEAR) .venv
	@awk '/^[^ ]/ { wanted = /^uv==/ } wanted' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement .venv/uv.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@pwd -P > $@

# conda.yaml carries a digest of the lock in its name, so that a new lock makes conda and MLflow build a new environment.
lock: env
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --generate-hashes --no-header \
	    --no-annotate --upgrade --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --upgrade --output-file bench/requirements.lock bench/requirements.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --upgrade --output-file tests/validator/requirements.lock tests/validator/requirements.in
	sed -i "s/^name: .*/name: lenet5-reproduction-$$(sha256sum requirements.lock | cut -c1-12)/" conda.yaml

audit: env
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --progress-spinner off \
	    --requirement requirements.lock $(addprefix --ignore-vuln ,$(ACCEPTED))

sbom: env
	$(BIN)/python -m cyclonedx_py environment --output-reproducible --no-validate --pyproject pyproject.toml \
	    --output-file sbom.cdx.json .venv

clean:
	rm -rf .venv bench/.venv tests/validator/.venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
