# Everything a contributor or a newcomer runs. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := .venv-compiled

.DEFAULT_GOAL := help
.PHONY: help run cluster test test-compiled lint format generate smoke compiled bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: $(STAMP) ## install into .venv and run one member on localhost:2379
	$(BIN)/kvstored

cluster: $(STAMP) ## run three members on localhost:2379, 22379 and 32379
	$(BIN)/python deploy/local_cluster.py

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test-compiled: $(STAMP) ## compile, and run the tests of what is compiled and of what stands on it
	$(BIN)/python deploy/compiled/check.py -q -n auto --dist loadfile $(addprefix tests/,raft mvcc storage lease rpc server peer api client cluster)

lint: $(STAMP) ## check style, types, layering and generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

format: $(STAMP) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(STAMP) ## write kvstore/pb from protos/
	$(BIN)/python protos/generate.py

smoke: $(STAMP) ## show that every benchmark works; measures nothing
	$(BIN)/python -m kvbench compare --smoke --json bench-results/smoke.json
	$(BIN)/python -m kvbench compare --smoke --members 3 --only 'put 10x10' --only 'leader killed' --json bench-results/smoke-3.json

compiled: ## compile into .venv-compiled, with the fastest Python that is here
	rm -rf $(COMPILED) build
	"$$($(PYTHON) deploy/compiled/interpreter.py $(PYTHON))" -m venv $(COMPILED)
	KVSTORE_COMPILE=1 $(COMPILED)/bin/python -m pip install --quiet --disable-pip-version-check .

bench: compiled ## measure the compiled build against etcd, if it is on the PATH
	$(COMPILED)/bin/python -P -m kvbench compare

clean: ## remove the virtual environment and what was built
	rm -rf $(VENV) $(COMPILED) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
