# make reproduce   run everything: environment, data, range test, 15 models, report
# make quick       run the same in minutes, with one epoch of 10,000 images
# make report      write the report from the tracking store
# make ui          open the MLflow UI on http://127.0.0.1:5000
# make env         install the environment into .venv
# make lint        check style, types, the direction of imports, the Dockerfile
# make test        run the tests; takes minutes
# make test-system run the tests that need a cluster, several ranks, PostgreSQL or minutes
# make test-pythons run a small study and the fast tests with each other Python 3.10 to 3.12 that is installed
# make test-image  build the image and test it; needs a container engine
# make test-faults kill the program, fill its disk, stop its store, and measure the damage: docs/reliability.md; an hour
# make image       build the container's image, lenet5-reproduction
# make soak        run 200 trials in one command, and measure memory, open files and the store's speed
# make scaling     measure what a trial costs besides its training, here and on Ray: docs/scaling.md
# make cluster     run the study on two Ray nodes and PostgreSQL, kill one node, and compare: docs/scaling.md
# make bench       compare the speed with other ways to train the network; takes about 20 minutes
# make lock        resolve the versions again
# make audit       ask PyPI for known vulnerabilities, except those that docs/security.md accepts
# make sbom        write sbom.cdx.json, the environment's bill of materials in CycloneDX format
# make clean       remove the environments and the caches of the tools

# Make passes its command line to other makes in variables that no shell can read. The launchers of ranks pass all
# variables to a shell.
unexport MAKEFLAGS MAKEOVERRIDES MFLAGS

# The newest that the study's libraries have, and that runs: pyenv has a command for each version, but runs only one.
PYTHON ?= $(shell for name in python3.12 python3.11 python3.10 python3; do \
    $$name -c 'import ensurepip' 2>/dev/null && command -v $$name && break; done || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# The programs of an environment contain its path. An environment that was moved or copied with its folder is made again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
CLEAR := --clear
endif
# For example: `make image IMAGE_OPTIONS="--build-arg BASE_IMAGE=debian@sha256:…"`.
IMAGE_OPTIONS ?=
ACCEPTED = $(shell grep '^| `[A-Z]' docs/security.md | cut -d'|' -f2 | tr -d '`')
COMMIT = $(shell $(PYTHON) -I reproduce/training/checkout.py 2>/dev/null || echo unknown)

# As root on Debian or Ubuntu, this prints a line and installs a package. It fails elsewhere.
with_apt = { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing $(1) by apt-get, for the tests" && \
    { apt-get install -qq --yes --no-install-recommends $(1) >/dev/null 2>&1 || { apt-get update -qq && \
    apt-get install -qq --yes --no-install-recommends $(1) >/dev/null; }; }; }

.PHONY: reproduce quick report test test-system test-pythons test-image test-faults soak scaling cluster image bench lint ui env lock audit sbom clean

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

test: env tests/validator/.venv/installed $(VENV)/browser
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 -m "not (system or image or faults)"

test-system: env $(VENV)/browser $(VENV)/postgresql $(VENV)/strace $(VENV)/emulator
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 2 --dist loadgroup -m "system and not (image or faults)"

test-image: env
	$(BIN)/python -m pytest -m image

# The table is also written if a fault did damage.
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
	$(BIN)/python bench/kernel.py
	$(BIN)/python bench/command.py

# Install a Chromium for the page's tests, if possible.
$(VENV)/browser: $(STAMP)
	@for name in chromium chromium-browser google-chrome; do command -v $$name; done | grep -q . || \
	    { echo "installing a Chromium, for the page's tests" && \
	        $(BIN)/playwright install $$([ "$$(id -u)" != 0 ] || echo --with-deps) chromium >/dev/null 2>&1; } || \
	    $(call with_apt,chromium) || \
	    echo "no Chromium here: the page's tests are skipped; install the package chromium to have them"
	@touch $@

# Install PostgreSQL for the tests of a shared store, if possible. The database cluster that Debian makes is not used.
$(VENV)/postgresql: $(STAMP)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || $(call with_apt,postgresql) || \
	    echo "no PostgreSQL here: the tests of a shared store are skipped; install the package postgresql to have them"
	@touch $@

# Install strace, for the tests of what a command sends to other hosts, if possible.
$(VENV)/strace: $(STAMP)
	@command -v strace >/dev/null || $(call with_apt,strace) || \
	    echo "no strace here: the tests of what leaves the machine are skipped; install the package strace to have them"
	@touch $@

# Install a compiler and an emulator, for the test of the kernel on aarch64, if possible.
$(VENV)/emulator: $(STAMP)
	@{ command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64; } >/dev/null || \
	    $(call with_apt,g++-aarch64-linux-gnu qemu-user) || \
	    echo "no emulator here: the kernel is not tested on aarch64; install g++-aarch64-linux-gnu and qemu-user to do so"
	@touch $@

# Programs that need other versions than the study have their own environments.
bench/.venv/installed tests/validator/.venv/installed: %/.venv/installed: %/requirements.lock | env
	$(PYTHON) -m venv $*/.venv
	VIRTUAL_ENV=$*/.venv $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes $*/requirements.lock
	@touch $@

# With each other Python that is here: its own environment, a small study, and the fast tests.
test-pythons: env
	@for own in "$$(pyenv root 2>/dev/null)"/versions/*/bin; do PATH="$$own:$$PATH"; done; \
	used=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	for version in 3.10 3.11 3.12; do \
	    [ $$version != $$used ] || continue; \
	    python$$version -c 'import ensurepip' 2>/dev/null || { echo "no python$$version here: not tested with it"; continue; }; \
	    own=.venv-$$version; \
	    $(MAKE) PYTHON=python$$version VENV=$$own env && \
	    MLFLOW_TRACKING_URI=sqlite:///$$own/mlflow.db $$own/bin/reproduce main --force --epochs 1 \
	        --train-size 10000 --output $$own/report && \
	    $(MAKE) PYTHON=python$$version VENV=$$own test || exit 1; \
	done

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@[ "$$(uname)" = Linux ] || { echo "error: this needs Linux; on another system use the container: docs/container.md" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	    { echo 'error: this needs Python 3.10, 3.11 or 3.12: install one, or name its path: make PYTHON=/path/to/python3.12;' \
	        'uv brings one too: make PYTHON="$$(uv python find 3.12)" after uv python install 3.12' >&2; exit 2; }
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	@echo "installing the environment into $(VENV): 6 GB, in one to several minutes"
	@awk '/^[^ ]/ { wanted = /^uv==/ } wanted' requirements.lock > $(VENV)/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement $(VENV)/uv.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@pwd -P > $@

# The name in conda.yaml contains a digest of the lock, so conda and MLflow build a new environment for a new lock.
lock: env
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --group dev --generate-hashes --no-header \
	    --no-annotate --upgrade --output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
	    --upgrade --output-file bench/requirements.lock bench/requirements.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
	    --upgrade --output-file tests/validator/requirements.lock tests/validator/requirements.in
	sed -i "s/^name: .*/name: lenet5-reproduction-$$(sha256sum requirements.lock | cut -c1-12)/" conda.yaml

audit: env
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --progress-spinner off \
	    --requirement requirements.lock $(addprefix --ignore-vuln ,$(ACCEPTED))

sbom: env
	$(BIN)/python -m cyclonedx_py environment --output-reproducible --no-validate --pyproject pyproject.toml \
	    --output-file sbom.cdx.json .venv

clean:
	rm -rf .venv .venv-* bench/.venv tests/validator/.venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
