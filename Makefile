# Two commands from a fresh machine: `make demo` and `make test`. They need python3 (3.11+) and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 5
LONGEST ?= 12m
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready-$(shell cksum < pyproject.toml | cut -d' ' -f1)-$(shell cksum < constraints.txt | cut -d' ' -f1)
NATIVE := $(wildcard engine/streammachine/*/*.pyx engine/streammachine/*/*/*.pyx engine/streammachine/*/native/*.pxi engine/streammachine/*/*/native/*.pxi)

.PHONY: help setup demo test test-versions test-newest check coverage bench chaos load peers fuzz docs changelog hooks clean
.DEFAULT_GOAL := demo

# A line for each target: the text behind its "##".
help: ## This list.
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
	  printf '%-14s %s\n' "$$target" "$$text"; \
	done

setup: $(READY) ## Make .venv with everything, at the versions of constraints.txt.

$(READY): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "This python3 cannot make virtual environments; install its venv package (Debian: python3-venv)."; exit 1; }
	@echo "Setting up in $(VENV): once, a minute or two (it compiles)"
	@$(PIP) --upgrade "pip>=25.3"
	@PYTHONWARNINGS=ignore $(PIP) --constraint constraints.txt --build-constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'import streammachine as s; from streammachine.market.exchanges.decode import HAS_NATIVE as k; n = k and s._HAS_FAST_OHLC_CYTHON and s._has_cython_decode; print("Native parts: compiled" if n else "Native parts: NOT compiled (no C compiler?); the plain-Python twins are used, slower but the same")'
	@rm -f $(VENV)/.ready-*
	@touch $@

demo: setup ## Show it at work, in about a minute; TRADES=file.csv.gz plays recorded trades.
	@$(BIN)/streammachine demo $(if $(TRADES),--trades "$(TRADES)",)

# Five at a time: most of the tests wait for servers most of the time.
test: check ## Linters, types, import rules, and all tests; JOBS=5 at a time.
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

test-versions: setup ## A quarter of the tests on every other Python of the classifiers that is installed.
	@.ci/pythons $(BIN)/python | while read -r version python; do \
	  echo "Python $$version:"; \
	  $(MAKE) --no-print-directory setup PYTHON="$$python" VENV=".venv-$$version" < /dev/null && \
	  timeout -k 10 $(LONGEST) ".venv-$$version/bin/python" -m pytest -q -n $(JOBS) --dist loadfile -p no:cacheprovider \
	    @tests/other_versions.txt < /dev/null || exit 1; \
	done

test-newest: setup ## What a new FastMCP or mcp could break, with the newest that pyproject admits.
	@timeout -k 10 $(LONGEST) .ci/newest $(BIN)/python -q -n $(JOBS) --dist loadfile -p no:cacheprovider \
	  @tests/newest_libraries.txt < /dev/null

check: setup ## Linters, types and import rules, without the tests.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Processes that tests start are measured too; those that they kill are not.
coverage: setup ## All tests, then the coverage by module: stated, not gated. ONLY=tests/engine/ohlc for a part.
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest -q -n $(JOBS) --dist loadfile $(ONLY)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: setup ## Benchmarks, each beside a peer; ONLY=mcp for one. Appends to benchmarks/history.jsonl.
	$(BIN)/python -m benchmarks $(ONLY)

chaos: setup ## The long form of tests/chaos: workers killed, the network cut, servers restarted, at random.
	$(BIN)/python -m tests.chaos

load: setup ## Ten clients call the server a thousand times each, over stdio and HTTP; no error, no growth.
	$(BIN)/python -m tests.load

# Each in an environment of its own under .venv-peers (2 GB).
peers: setup ## Agent frameworks, SDKs and the Inspector as clients; installs them first.
	$(BIN)/python -m tests.peers
	$(BIN)/python -m pytest -q tests/server/test_peers.py

fuzz: setup ## The native modules under AddressSanitizer: hostile and random inputs, SECONDS=300 for each.
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),300)

docs: setup ## The documentation site, into site/; SERVE=1 shows it on a loopback port.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(if $(SERVE),serve,build --quiet)

changelog: setup ## What changes/ will add to CHANGELOG.md; VERSION=0.2.0 writes it there and removes the fragments.
	$(BIN)/towncrier build $(if $(VERSION),--yes --version "$(VERSION)",--draft --version Unreleased)

hooks: setup ## Run the checks at each commit (.pre-commit-config.yaml).
	$(BIN)/pre-commit install

clean: ## Remove environments, builds and caches.
	rm -rf $(VENV) .venv-* build dist *.egg-info engine/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find engine -name '*.so' -delete
	find engine -name '*.c' -delete
