# Every target that needs the environment makes it first. Without changes that takes under 2 s.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# What vLLM runs on: cpu or gpu.
ACCELERATOR ?= cpu
# Further arguments for `broadsheet up --demo` or for pytest.
ARGS ?=
# How many seeds `make simulate` runs.
SEEDS ?= 10000
# How many examples `make test-states` runs on each database.
EXAMPLES ?= 2000

.PHONY: help
help: ## Show this list
	@echo "Broadsheet. Targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: ACCELERATOR=cpu|gpu (install), ARGS='…' (demo: --exit; test: anything pytest takes)"

.PHONY: install
install: ## Make .venv from the lock file and install Broadsheet into it, editable
	@scripts/install "$(ACCELERATOR)"

.PHONY: demo
demo: install ## Run both planes here and ask a real model (ARGS=--exit: end after the answers)
	@exec $(BIN)/broadsheet up --demo $(ARGS)

.PHONY: test
test: install ## Run all tests, hostile clients last (ARGS="-m 'not e2e'": without Ray, vLLM and hostile clients)
	$(BIN)/pytest -n 2 --ignore=tests/hostile $(ARGS)
	$(if $(ARGS),,$(BIN)/pytest tests/hostile)

.PHONY: simulate
simulate: install ## Run both planes in a simulation of faults (SEEDS=10000; ARGS="--trace 7": one seed, with its trace)
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

.PHONY: test-hostile
test-hostile: install ## Attack each listening port for 10 s an attack, and show what that costs (15 minutes)
	BROADSHEET_TEST_ATTACK_S=10 $(BIN)/pytest -q --log-cli-level=INFO tests/hostile $(ARGS)

.PHONY: check
check: check-format check-lint check-types check-protos check-breaking check-generated check-imports check-sizes ## Run every static check
	@echo "make check: all passed"

.PHONY: check-format
check-format: install
	@echo "== format (ruff)"
	@$(BIN)/ruff format --check .

.PHONY: check-lint
check-lint: install
	@echo "== lint (ruff)"
	@$(BIN)/ruff check .

.PHONY: check-types
check-types: install
	@echo "== types (mypy, strict)"
	@$(BIN)/mypy

.PHONY: check-protos
check-protos: install
	@echo "== protos: style (buf lint, buf format)"
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code --path protos/broadsheet

.PHONY: check-breaking
check-breaking: install
	@echo "== protos: compatibility (buf breaking)"
	@scripts/check-breaking

.PHONY: check-generated
check-generated: install
	@echo "== protos: generated code is fresh"
	@$(BIN)/python scripts/proto.py --check
	@echo "== blocking client: generated code is fresh"
	@$(BIN)/python scripts/sync_client.py --check

.PHONY: check-imports
check-imports: install
	@echo "== import contracts (import-linter)"
	@$(BIN)/lint-imports --no-cache

.PHONY: check-sizes
check-sizes: install
	@echo "== sizes of files, classes, functions and folders"
	@$(BIN)/python scripts/check_sizes.py

.PHONY: format
format: install ## Format code and protos, and fix what ruff can fix
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/buf format --write --path protos/broadsheet

.PHONY: proto
proto: install ## Generate the Python code of protos/ and the blocking client anew
	@$(BIN)/python scripts/proto.py
	@$(BIN)/python scripts/sync_client.py

.PHONY: bench-ingress
bench-ingress: install ## Compare the ingress with an engine asked directly and with its peers (25 minutes; ARGS=--quick: 3)
	@scripts/install-bench
	@$(BIN)/python -m tests.bench.ingress $(ARGS)

.PHONY: bench-soak
bench-soak: install ## Hold 1,000 streams for ten minutes through the ingress, and show its memory (ARGS="--minutes 10")
	@$(BIN)/python -m tests.bench.ingress.soak $(ARGS)

.PHONY: bench-memory
bench-memory: install ## Measure what large bodies and idle connections make an ingress process hold (4 minutes)
	@$(BIN)/python -m tests.bench.bench_memory $(ARGS)

.PHONY: bench-replicas
bench-replicas: install ## Compare 1 to 4 ingress replicas on one port (on a machine with a dozen cores)
	@$(BIN)/python -m tests.bench.bench_replicas $(ARGS)

.PHONY: bench-change
bench-change: install ## Measure what a change of one adapter costs at 1,000, 10,000 and 100,000 entries
	@$(BIN)/python -m tests.bench.bench_change $(ARGS)

.PHONY: bench-faults
bench-faults: install ## Kill each part of a running data plane under load, and show what that costs callers
	@$(BIN)/python -m tests.bench.bench_faults $(ARGS)

.PHONY: bench-models
bench-models: install ## Measure 10,000 registered models, 200 of them asked, and models in use (30 minutes)
	@$(BIN)/python -m tests.bench.bench_models $(ARGS)

.PHONY: bench-registry
bench-registry: install ## Time the registry on 100,000 adapters, `apply`, and its commits beside those of etcd
	@$(BIN)/python -m tests.bench.bench_registry $(ARGS)

.PHONY: bench-push
bench-push: install ## Time changes from the commit to 1,000 data planes, with their costs, and the curve to 4,000
	@$(BIN)/python -m tests.bench.bench_push $(ARGS)

.PHONY: bench-churn
bench-churn: install ## Change a catalog for ten minutes, as much as in a day, and show the memory of each process
	@$(BIN)/python -m tests.bench.bench_churn $(ARGS)

.PHONY: test-push-faults
test-push-faults: install ## Kill, stop and cut off real processes at named points while changes are pushed (5 minutes)
	@$(BIN)/python -m tests.push_faults $(ARGS)
	$(if $(ARGS),,@$(BIN)/python -m tests.push_faults.with_ray)

.PHONY: bench-relay
bench-relay: install ## Measure what the relay costs with 50 to 800 engine replicas (3 minutes)
	@# The variable keeps Ray on loopback, as in a data plane.
	@RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 $(BIN)/python -m tests.bench.bench_relay $(ARGS)

.PHONY: bench-disk
bench-disk: install ## Measure what a changed adapter costs on a data plane's disk (ARGS="ENTRIES..."; a minute)
	@$(BIN)/python -m tests.bench.bench_disk $(ARGS)

.PHONY: bench-sleep
bench-sleep: install ## Compare sleeping replicas with starts from zero (on an accelerator; ARGS="--billions 8")
	@$(BIN)/python -m tests.bench.bench_sleep $(ARGS)

.PHONY: bench-vllm
bench-vllm: install ## Compare real vLLM on the CPU through the ingress with its replica asked directly (7 minutes)
	@$(BIN)/python -m tests.bench.vllm_path --alternating $(ARGS)

.PHONY: fuzz
fuzz: install ## Send random and mutated requests to every RPC, on both databases (ARGS="COUNT SEED"; 50,000)
	@$(BIN)/python -m tests.fuzz $(ARGS)

.PHONY: fuzz-adapters
fuzz-adapters: install ## Compare the verdict on mutated adapters with that of vLLM's loader (ARGS="COUNT SEED"; 20,000)
	@$(BIN)/python -m tests.adapter_fuzz $(ARGS)

.PHONY: fuzz-logs
fuzz-logs: install ## Boot data planes from mutated logs of changes (ARGS="COUNT SEED"; 100,000)
	@$(BIN)/python -m tests.log_fuzz $(ARGS)

.PHONY: fuzz-bundles
fuzz-bundles: install ## Read mutated and forged bundles of snapshots (ARGS="COUNT SEED"; 100,000)
	@$(BIN)/python -m tests.bundle_fuzz $(ARGS)

.PHONY: fuzz-sync
fuzz-sync: install ## Damage messages of the Sync stream in both directions (ARGS="COUNT SEED"; 100,000 each)
	@$(BIN)/python -m tests.sync_fuzz $(ARGS)

.PHONY: fuzz-args
fuzz-args: install ## Compare random engine arguments with vLLM's own reading of them (ARGS="COUNT SEED"; 20,000)
	@$(BIN)/python -m tests.engine_args_fuzz $(ARGS)

.PHONY: test-kills
test-kills: install ## Kill control planes that share a PostgreSQL during writes (ARGS="WRITES SEED"; 10,000)
	@$(BIN)/python -m tests.killed_replicas $(ARGS)

.PHONY: test-states
test-states: install ## Compare the registry with its model in EXAMPLES random examples on each database
	@BROADSHEET_TEST_EXAMPLES=$(EXAMPLES) BROADSHEET_TEST_RANDOM=1 \
		$(BIN)/pytest -n 2 tests/contract/test_registry_states.py $(ARGS)

.PHONY: test-updates
test-updates: install ## Change everything for 3 minutes while 216 clients stream (vLLM and SIMULATED)
	@BROADSHEET_TEST_UPDATES_S=180 $(BIN)/pytest -q -s tests/e2e/smollm2/test_serving_updates.py $(ARGS)

.PHONY: demo-adapter
demo-adapter: install ## Train the demo's LoRA adapter again (it is committed; 1 minute)
	@$(BIN)/python scripts/train_demo_adapter.py

.PHONY: lock
lock: ## Resolve requirements/*.lock again from pyproject.toml
	@scripts/lock

.PHONY: clean
clean: ## Remove .venv and every cache below this folder (not the model cache in ~/.cache/broadsheet)
	rm -rf .venv .bench build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find clients controlplane dataplane protocol scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
