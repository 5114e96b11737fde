# `make demo` and `make test` set themselves up on a fresh Debian machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APT_PACKAGES := mosquitto mosquitto-clients dataset-fashion-mnist
WORKERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) \* 3 / 2)  # tests often wait for a broker or a node
CONSTRAINTS := deploy/constraints-$(shell uname -m).txt

.PHONY: demo test faults arm check setup system clean
.DEFAULT_GOAL := demo

demo: setup
	$(BIN)/edgecc demo

test: setup check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile $(if $(CI),--no-skips) $(PYTEST_ARGS)

# Kills, cuts, fills and misleads real processes for the better part of an hour.
faults: setup
	$(BIN)/pytest tests/faults --full $(if $(CI),--no-skips) $(PYTEST_ARGS)

test faults: APT_PACKAGES += libfaketime gcc libc6-dev shellcheck

# Emulates a Pi: its Python, its wheels, compiled trunks, daemon and learner. Needs root, 1 GB in
# build/arm, and ten minutes.
arm: setup
	tests/arm/make-root build/arm
	OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/arm/emulated.py tests/arm/installed.py $(if $(CI),--no-skips) $(PYTEST_ARGS)

arm: APT_PACKAGES += qemu-user-static debootstrap

check: setup
	$(BIN)/ruff check edgecc tests
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: system $(VENV)/ready

# Debian packages, where there is apt and the right to use it; without them the demo takes the
# embedded broker and scikit-learn's digits, and the tests that need mosquitto are skipped.
system:
	@deploy/system-packages $(APT_PACKAGES)

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
