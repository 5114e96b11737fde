# `make demo` and `make test` set themselves up on a fresh Debian machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APT_PACKAGES := mosquitto mosquitto-clients dataset-fashion-mnist
WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 3 / 2)  # tests often wait for a broker or a node
CONSTRAINTS := deploy/constraints-$(shell uname -m).txt

.PHONY: demo test check faults arm dist setup system clean help
.DEFAULT_GOAL := demo

demo: setup  ## set up, then show everything in about four minutes
	$(BIN)/edgecc demo

test: setup check  ## set up, then the checks, every test, and the ten slowest of them
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal --durations=10 $(if $(CI),--no-skips) $(PYTEST_ARGS)

check: setup  ## ruff, mypy and the import contracts
	$(BIN)/ruff check edgecc tests
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: setup  ## kill, cut, fill and mislead real processes for the better part of an hour
	$(BIN)/pytest tests/faults --full $(if $(CI),--no-skips) $(PYTEST_ARGS)

test faults: APT_PACKAGES += libfaketime gcc libc6-dev shellcheck

# Needs root, 1 GB in build/arm, and ten minutes.
arm: setup  ## emulate a Pi: its Python, its wheels, compiled trunks, daemon and learner
	tests/arm/make-root build/arm
	OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/arm/emulated.py tests/arm/installed.py $(if $(CI),--no-skips) $(PYTEST_ARGS)

arm: APT_PACKAGES += qemu-user-static debootstrap

dist: setup  ## source distribution and wheel, into dist/
	rm -rf build/lib dist
	$(BIN)/python -m build --no-isolation

setup: system $(VENV)/ready  ## a virtual environment in .venv with everything for development

# Without apt, the demo takes the embedded broker and scikit-learn's digits, and the tests that need
# mosquitto are skipped.
system:  ## Debian packages, where there is apt and the right to use it
	@deploy/system-packages $(APT_PACKAGES)

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

clean:  ## remove everything that was made here
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST) | expand -t 14
