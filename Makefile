SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "ramole needs Python 3.11 or newer: set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable '.[lab]'
	@touch $(STAMP)

install: $(STAMP) ## .venv with everything, from pinned constraints

demo: $(STAMP) ## the whole system on this machine, with real adapters, in minutes
	$(BIN)/ramole demo

WORKERS ?= 2
test: $(STAMP) ## lint, types, import contracts, proto drift, unit, contract and integration tests, by WORKERS=2
	$(MAKE) check
	$(BIN)/python -m pytest -n $(WORKERS)

check: $(STAMP) ## the static half of test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(RUN) lint-imports
	$(MAKE) protos-check
	$(MAKE) docs

docs: $(STAMP) ## the documentation as a site, in build/site; broken links fail
	$(BIN)/python docs/build.py

fmt: $(STAMP) ## format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

k8s: $(STAMP) ## what is made in k8s/: Serve configurations from settings.yaml, and the rules of ops/
	$(BIN)/python ops/prometheus_rule.py > k8s/base/prometheusrule.yaml
	@for overlay in k8s/overlays/*/; do \
	  RAMOLE_CONFIG=$${overlay}settings.yaml $(BIN)/ramole serve-config --rayservice ramole > $${overlay}serve-config.yaml || exit 1; \
	done

check-k8s: $(STAMP) ## that k8s/ is valid and fits the code; without a cluster
	@$(BIN)/python -m pytest -q --durations=0 --durations-min=60 -p no:warnings tests/k8s | grep -v '^\(\.\|$$\)'; exit $${PIPESTATUS[0]}

MINUTES ?= 5
INPUTS ?= 100000
fuzz: $(STAMP) ## odd requests to a real server for MINUTES=5, beside bystanders; INPUTS=100000 of any kind to both ports
	FUZZ_MINUTES=$(MINUTES) FUZZ_INPUTS=$(INPUTS) $(BIN)/python -m pytest -q -o faulthandler_timeout=0 tests/fuzz

test-slow: $(STAMP) ## tests that take minutes
	$(BIN)/python -m pytest -m slow

test-fault: $(STAMP) ## kills, stalls and cuts under load; a table, and build/fault-report.json
	$(BIN)/python -m pytest -m fault --durations=0 --durations-min=120 -p no:warnings tests/fault

test-gpu: $(STAMP) ## tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu && $(BIN)/python -m pytest tests/unit/mixture/test_forms.py -k triton

gpu-report: $(STAMP) ## everything that a GPU must tell, in nine minutes: a table, and build/gpu-report/report.json; DEVICE=cpu tries it
	$(BIN)/python ops/gpu/report.py --device $(or $(DEVICE),cuda)

PROTOC = $(RUN) python -m grpc_tools.protoc -I protos --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) --mypy_grpc_out=quiet:$(1) $$(cd protos && find . -name '*.proto' -printf 'protos/%P ')

protos: $(STAMP) ## regenerate services/ramole/v1 from protos/
	rm -f services/ramole/v1/*_pb2*
	$(call PROTOC,services)

protos-check: $(STAMP) ## that generated code is what protos/ says, and protos/ breaks no rule and no released client
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && ( $(call PROTOC,$$out) ) \
	 && diff -r -x __init__.py -x __pycache__ "$$out/ramole/v1" services/ramole/v1 \
	 || { echo "services/ramole/v1 does not match protos/: run 'make protos'" >&2; exit 1; }
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/released.binpb

protos-released: $(STAMP) ## remember protos/ as released: what protos-check lets nobody break from now on
	$(BIN)/buf build protos --exclude-source-info --output protos/released.binpb

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

.PHONY: help install demo test check check-k8s k8s docs fmt fuzz test-slow test-fault test-gpu gpu-report protos protos-check protos-released clean
