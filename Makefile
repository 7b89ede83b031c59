# Two commands for a newcomer: `make demo` and `make test`. Both set up what they need; the second time in seconds.
SHELL := /bin/bash
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: setup demo test test-all chaos model unit sim lint proto bench-container bench-move bench-btrfs bench-zfs bench-transfer bench-failover bench-heartbeats bench-idle bench-scrape clean

setup: ; @tools/setup
demo: setup ; @$(BIN)/python -m tools.demo
test: setup
	$(BIN)/pytest tests/unit -n 2
	$(BIN)/pytest tests/model -n 2
	$(BIN)/pytest tests/sim -n 2 -m 'not long'
	$(BIN)/pytest tests/contract -n 2 --dist loadfile --timeout 240 -m 'not long'
	$(BIN)/pytest tests/cluster -n 2 --dist loadfile --timeout 240 -m 'not long'
test-all: test
	tools/setup-vm
	tools/setup-root
	$(BIN)/pytest tests/contract tests/sim tests/cluster -m long
	$(BIN)/python -m tests.model.promela
	$(BIN)/python -m tests.sim --seeds $(SEEDS)
	$(BIN)/python -m tests.chaos run --minutes 5
	$(BIN)/python -m tests.chaos mutants
# One number repeats a run: make chaos MINUTES=60 SEED=7
MINUTES ?= 5
chaos: setup
	$(BIN)/python -m tests.chaos run --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.chaos mutants
unit: setup ; $(BIN)/pytest tests/unit -n 2
model: setup ; $(BIN)/python -m tests.model.promela
# One number repeats a run: python -m tests.sim --seed 7
SEEDS ?= 500
sim: setup ; $(BIN)/python -m tests.sim --seeds $(SEEDS) $(if $(REPORT),--report $(REPORT))
lint: setup
	$(BIN)/ruff check agent coordinator tests bench tools
	$(BIN)/ruff format --check agent coordinator tests bench tools
	$(BIN)/mypy -p drover -p tests -p bench -p tools
	$(BIN)/lint-imports --no-cache
proto: setup ; tools/proto
bench-container: setup ; $(BIN)/python -m bench.container
bench-move: setup ; $(BIN)/python -m bench.move
bench-btrfs: setup ; $(BIN)/python -m bench.btrfs
bench-zfs: setup ; @bench/zfs_peers.sh
	$(BIN)/python -m bench.zfs
bench-transfer: setup ; $(BIN)/python -m bench.transfer
# Fewer runs or seconds only show that it works: make bench-failover RUNS=1
RUNS ?= 20
WINDOW ?= 120
bench-failover: setup ; @bench/peers.sh
	$(BIN)/python -m bench.failover --runs $(RUNS)
bench-heartbeats: setup ; $(BIN)/python -m bench.heartbeats --seconds $(WINDOW)
bench-idle: setup ; $(BIN)/python -m bench.idle
bench-scrape: setup ; $(BIN)/python -m bench.scrape
clean: ; rm -rf .venv .cache
