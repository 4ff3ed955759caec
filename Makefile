# the two commands of the README: make demo, make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST := $(wildcard rust/*.rs) Cargo.toml Cargo.lock

.DEFAULT_GOAL := help
.PHONY: help setup browser demo test test-all test-rust test-python test-fast lint lint-python lint-rust format docs bench peers wheel clean

help: ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

setup: $(VENV)/.extension $(VENV)/.duckdb-previous $(VENV)/.bitsandbytes ## make .venv with every dependency and the built extension

$(VENV)/.dependencies: pyproject.toml
	@echo "==> dependencies into $(VENV) (torch is some GB the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r pyproject.toml --extra all --group dev
	@touch $@

$(VENV)/.extension: $(VENV)/.dependencies $(RUST) pyproject.toml
	@echo "==> building the Rust core and installing diq into $(VENV)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# the release before the current DuckDB, in a folder of its own: a test opens a store with it
$(VENV)/.duckdb-previous: $(VENV)/.dependencies
	@echo "==> previous DuckDB into $(VENV)/duckdb-previous"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(VENV)/duckdb-previous 'duckdb>=1.5,<2'
	@touch $@

# packed weights for a test of quantised models; in a folder of its own, since it writes to stderr wherever peft imports it
$(VENV)/.bitsandbytes: $(VENV)/.dependencies
	@echo "==> bitsandbytes into $(VENV)/bitsandbytes"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target $(VENV)/bitsandbytes 'bitsandbytes>=0.49' \
		|| echo "no bitsandbytes for this machine: its test will be skipped"
	@touch $@

# tests of pages need one; where it can't be had they are skipped, visibly
browser: ## a Chromium for the tests of pages, where Debian's packages can be installed
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
		|| { echo "==> chromium" && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "no chromium for this machine: tests of pages will be skipped"

demo: $(VENV)/.extension ## run the whole pipeline offline on made-up data
	@echo "==> diq demo"
	@$(BIN)/diq demo

test: test-rust test-python ## cargo tests, then pytest

# needs nothing of $(VENV): cargo builds it while that is being filled
test-rust:
	@echo "==> cargo test"
	@cargo test --quiet

test-python: setup
	@echo "==> pytest"
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations=25

test-all: test-rust setup ## all of them, also those marked exhaustive
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q -n 2 --dist worksteal -m ''

test-fast: setup ## pytest without the tests that take seconds
	@OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow and not exhaustive'

lint: lint-python lint-rust ## ruff, mypy, stubtest, rustfmt, clippy

lint-python: setup
	@echo "==> ruff, mypy, stubtest"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/python -m mypy.stubtest --mypy-config-file stubtest.ini diq._core

# needs nothing of $(VENV), as test-rust
lint-rust:
	@echo "==> rustfmt, clippy"
	@cargo fmt --check
	@cargo clippy --quiet --all-targets --all-features -- -D warnings

format: $(VENV)/.dependencies ## format Python and Rust
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@cargo fmt

docs: $(VENV)/.extension ## write docs/cli.md and docs/python.md from the code
	@$(BIN)/python docs/reference.py

bench: setup ## every bench that needs no accelerator; each prints a table
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --group bench
	@for bench in $(filter-out benches/bench_peers.py,$(wildcard benches/bench_*.py)); do \
		echo "==> $$bench"; $(BIN)/python $$bench || exit 1; done
	@cargo bench --quiet --features bench

peers: setup ## the bench against bergson, dattri and the LESS loop, in an environment of their own
	@test -x .venv-peers/bin/python || bash benches/peers/setup.sh
	@$(BIN)/python benches/bench_peers.py

wheel: $(VENV)/.dependencies ## build the abi3 wheel into dist/
	@$(BIN)/maturin build --release --out dist

clean: ## remove what was built
	rm -rf $(VENV) target dist
