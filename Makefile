# Two commands from a fresh machine: `make demo` and `make test`. They need python3 (3.11+) and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 3
LONGEST ?= 6m
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready-$(shell cksum < pyproject.toml | cut -d' ' -f1)-$(shell cksum < constraints.txt | cut -d' ' -f1)
NATIVE := $(wildcard engine/streammachine/*/*.pyx engine/streammachine/*/*/*.pyx engine/streammachine/*/native/*.pxi)

.PHONY: demo test test-versions test-newest check bench chaos fuzz peers clean setup
.DEFAULT_GOAL := demo

setup: $(READY)

$(READY): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; $(PYTHON) is `$(PYTHON) --version`. Try: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "This python3 cannot make virtual environments; install its venv package (Debian: python3-venv)."; exit 1; }
	@echo "Setting up in $(VENV): once, about a minute"
	@$(PIP) --upgrade "pip>=25.3"
	@PYTHONWARNINGS=ignore $(PIP) --constraint constraints.txt --build-constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -c 'import streammachine as s; from streammachine.market.exchanges.decode import HAS_NATIVE as k; n = k and s._HAS_FAST_OHLC_CYTHON and s._has_cython_decode; print("Native parts: compiled" if n else "Native parts: NOT compiled (no C compiler?); the plain-Python twins are used, slower but the same")'
	@rm -f $(VENV)/.ready-*
	@touch $@

# make demo TRADES=file.csv.gz plays recorded trades.
demo: setup
	@$(BIN)/streammachine demo $(if $(TRADES),--trades "$(TRADES)",)

# Three at a time: most of the tests wait for servers most of the time.
test: check
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

# A chosen quarter of the tests on each other Python of pyproject's classifiers that is installed.
test-versions: setup
	@.ci/pythons $(BIN)/python | while read -r version python; do \
	  echo "Python $$version:"; \
	  $(MAKE) --no-print-directory setup PYTHON="$$python" VENV=".venv-$$version" < /dev/null && \
	  timeout -k 10 $(LONGEST) ".venv-$$version/bin/python" -m pytest -q -n $(JOBS) --dist loadfile -p no:cacheprovider \
	    @tests/other_versions.txt < /dev/null || exit 1; \
	done

# What a new FastMCP or mcp could break, with the newest that pyproject admits.
test-newest: setup
	@timeout -k 10 $(LONGEST) .ci/newest $(BIN)/python -q -n $(JOBS) --dist loadfile -p no:cacheprovider \
	  @tests/newest_libraries.txt < /dev/null

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks $(ONLY)

# The long form of tests/chaos: workers killed and paused, the network cut, the server restarted, at random.
chaos: setup
	$(BIN)/python -m tests.chaos

# Agent frameworks and the Inspector as clients, each in an environment of its own under .venv-peers (1.3 GB, needs an index).
peers: setup
	$(BIN)/python -m tests.peers
	$(BIN)/python -m pytest -q tests/server/test_peers.py

# The native modules under AddressSanitizer, built into build/asan: hostile and random inputs, SECONDS for each target.
fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),300)

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info engine/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find engine -name '*.so' -delete
	find engine -name '*.c' -delete
