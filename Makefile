# Two commands do everything: `make run` shows mmvisor at work, `make test` proves it.
# Both install what they need on a fresh Debian machine with cargo.

CARGO ?= cargo
PROFILE := release
BIN := target/$(PROFILE)

.PHONY: run test linker deps nested-setup build bench check clean

## Runs the tour: a payload that maps, touches, protects, splits, merges and unmaps memory.
run: build
	$(BIN)/mmvisor run $(BIN)/tour

## All tests: units, programs in a guest under the host's KVM, and the same in the nested machine.
test: deps nested-setup
	$(CARGO) test --workspace --no-fail-fast

## What cargo needs to link, where a fresh machine has cargo alone.
linker:
	@resources/install-deps.sh build

## What the tests need beside cargo: compilers for C programs, and programs that nobody here wrote.
deps:
	@resources/install-deps.sh

## The kernel and the emulator of the nested machine.
nested-setup: linker
	$(CARGO) run --quiet --package mmvisor -- nested setup

build: linker
	$(CARGO) build --workspace --$(PROFILE)

## Figures, as ratios to a floor measured in the same run.
bench: deps
	$(CARGO) bench --workspace

## What .ci/run checks beside the tests.
check: linker
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings

clean:
	$(CARGO) clean
