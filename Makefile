# Two commands matter to a newcomer: `make demo` and `make test`. Each sets up all it needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint bench docs sanitize clean

demo: .venv/.run
	$(BIN)/glassgate demo

test: lint
	$(BIN)/python -m pytest

lint: .venv/.dev
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

bench: .venv/.bench
	$(BIN)/python benchmarks/layers.py
	$(BIN)/python benchmarks/language.py

docs: .venv/.docs
	$(BIN)/sphinx-build -W -q -b html docs build/docs
	@echo "open build/docs/index.html"

# The kernels in a program of their own: guard pages around every buffer, then under the compiler's sanitizers.
SANITIZE = cmake -S . -B build/guard-$(1) -DGLASSGATE_TESTS=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$(2)" \
	&& cmake --build build/guard-$(1) --target guard_test --parallel 2 && $(3) build/guard-$(1)/guard_test $(4)

sanitize:
	$(call SANITIZE,plain,,,600 1)
	$(call SANITIZE,memory,-fsanitize=address$(COMMA)undefined -fno-sanitize-recover=all -g1,,500 2)
	$(call SANITIZE,threads,-fsanitize=thread -g1,,150 3)
COMMA := ,

clean:
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("glassgate needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

# A stamp file for each set of packages, so that a second run starts at once.
.venv/.run: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[train]'
	@touch $@

.venv/.dev: .venv/.run
	$(PIP) --editable '.[train,dev]'
	@touch $@

.venv/.bench: .venv/.run
	$(PIP) --editable '.[train,bench]'
	@touch $@

.venv/.docs: .venv/.run
	$(PIP) --editable '.[train,docs]'
	@touch $@
