# Each target first installs what it needs (deploy/dev/bootstrap.sh), then does its work. `make` alone lists them.
SHELL := /bin/bash
BOOTSTRAP := deploy/dev/bootstrap.sh
TARGET := $(or $(CARGO_TARGET_DIR),target)
export PATH := $(CURDIR)/.tools/bin:$(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

.PHONY: help demo up test lint matrix chaos upgrade-test bench bench-rpc bench-fanout bench-discovery bench-peers \
  bench-accept bench-build bench-scheduler bench-publishers bench-refusals mutants proto-baseline clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

demo: ## build, run a small cloud in one process, show what it does, stop
	@$(BOOTSTRAP) build
	@cargo build -p kilonova
	@$(TARGET)/debug/kilonova demo

up: ## build and run every service in one process until interrupted
	@$(BOOTSTRAP) build
	@cargo build -p kilonova
	@exec $(TARGET)/debug/kilonova up $(ARGS)

test: ## lint, unit and integration tests, then real processes driven by Python, grpcurl and Go
	@$(BOOTSTRAP) test
	@deploy/dev/test.sh

lint: ## formatting, clippy, licences and bans, protos, documentation, scripts
	@$(BOOTSTRAP) lint
	@deploy/dev/lint.sh

matrix: ## fail each write, command and report of each flow in every way, over both stores
	@$(BOOTSTRAP) test
	@KILONOVA_MATRIX=all cargo test -p kilonova-tests --test matrix -- --nocapture --test-threads 1

chaos: ## five minutes of real processes that are killed, frozen and cut off; ARGS='--seconds N --seed N' or --quick
	@$(BOOTSTRAP) test
	@cargo build -p kilonova -p kilonova-tests --bin kilonova --bin chaos
	@$(TARGET)/debug/chaos $(ARGS)

upgrade-test: ## chaos with conductors of the commit before side by side with these; FROM=commit for another
	@$(BOOTSTRAP) test
	@deploy/dev/upgrade.sh $(or $(FROM),HEAD~1) $(ARGS)

mutants: ## break the code in one place after another and require that a test notices
	@$(BOOTSTRAP) build
	@python3 tests/mutants/run.py $(ARGS)

bench: ## measure, in a release build
	@$(BOOTSTRAP) build
	@cargo run --release -p kilonova-tests --bin bench -- $(ARGS)

bench-rpc: ## measure a call against raw tonic, in a release build
	@$(BOOTSTRAP) build
	@cargo run --release -p kilonova-tests --bin bench_rpc -- $(ARGS)

bench-fanout: ## measure one update to many subscribers against raw tonic, in a release build
	@$(BOOTSTRAP) build
	@cargo run --release -p kilonova-tests --bin bench_fanout -- $(ARGS)

bench-peers: ## measure calls side by side with oslo.messaging on RabbitMQ, in a release build
	@$(BOOTSTRAP) peers
	@cargo build --release -p kilonova-tests --bin echo_peer
	@.tools/peers-venv/bin/python tests/bench/peers/run.py --echo-peer $(TARGET)/release/echo_peer $(ARGS)

bench-discovery: ## measure how soon callers notice members that come, die and freeze, in a release build
	@$(BOOTSTRAP) test
	@cargo build --release -p kilonova-tests --bin member --bin bench_discovery
	@$(TARGET)/release/bench_discovery $(ARGS)

bench-accept: ## measure how many requests are accepted durably, over both stores, in a release build
	@$(BOOTSTRAP) test
	@cargo run --release -p kilonova-tests --bin bench_accept -- $(ARGS)

bench-build: ## measure builds, takeover of shards, memory and listings, over both stores, in a release build
	@$(BOOTSTRAP) test
	@cargo run --release -p kilonova-tests --bin bench_build -- $(ARGS)

bench-scheduler: ## measure placement on 1,000 to 100,000 hosts, in a release build
	@$(BOOTSTRAP) build
	@cargo run --release -p kilonova-tests --bin bench_scheduler -- $(ARGS)

bench-publishers: ## measure schedulers of 10,000 publishers: start, 1,000 changes/s, memory, in a release build
	@$(BOOTSTRAP) test
	@cargo run --release -p kilonova-tests --bin bench_scale -- publishers $(ARGS)

bench-refusals: ## measure how often hosts refuse what 1, 2 and 4 schedulers promised, in a release build
	@$(BOOTSTRAP) build
	@cargo run --release -p kilonova-tests --bin bench_scale -- refusals $(ARGS)

proto-baseline: ## accept the protos as they are: later ones are checked against them
	@$(BOOTSTRAP) lint
	@buf build --exclude-source-info -o proto/baseline.binpb

clean: ## remove what was built (tools stay in .tools)
	@rm -rf $(TARGET) gen tests/clients/go/gen
