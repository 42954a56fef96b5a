# Two commands do everything: `make run` shows mmvisor at work, `make test` proves it.
# Both install what they need on a fresh Debian machine with cargo.

CARGO ?= cargo
PROFILE := release
BIN := target/$(PROFILE)

.PHONY: run test linker deps nested-setup build bench check fuzz-linux fuzz-guest fuzz-nested fuzz-program fuzz-mm \
    race interleave miri clean CALLS.md

## Runs the tour: a payload that maps, touches, protects, splits, merges and unmaps memory.
run: build
	$(BIN)/mmvisor run $(BIN)/tour

## All tests: units, programs in a guest under the host's KVM, and the same in the nested machine.
test: deps nested-setup
	$(CARGO) test --workspace --no-fail-fast
	$(INTERLEAVE)

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

## The table of system calls, from what serves them.
CALLS.md: linker
	$(CARGO) run --quiet --package mmvisor -- calls > $@.new && mv $@.new $@

## Figures, as ratios to a floor measured in the same run.
bench: deps
	$(CARGO) bench --workspace

## N random calls compared with the host's kernel, one by one, from SEED on (by default from the clock).
N ?= 1000000
SEED ?=
fuzz-linux: linker
	MMVISOR_FUZZ_CALLS=$(N) MMVISOR_FUZZ_SEED=$(SEED) \
	    $(CARGO) test --release --package mmvisor --test linux -- differential --nocapture

## The same, and in a guest under the host's KVM too: page faults and flushes are then the hardware's. As many again
## with a swap area, in software and in the guest.
fuzz-guest: N = 100000
fuzz-guest: linker
	MMVISOR_FUZZ_GUEST=1 MMVISOR_FUZZ_CALLS=$(N) MMVISOR_FUZZ_SEED=$(SEED) \
	    $(CARGO) test --release --package mmvisor --test linux -- differential --nocapture

## The same in guests of the nested machine, under NPT and SHADOW, against the walk in software.
fuzz-nested: N = 5000
fuzz-nested: nested-setup
	MMVISOR_FUZZ_NESTED=1 MMVISOR_FUZZ_CALLS=$(N) MMVISOR_FUZZ_SEED=$(SEED) \
	    $(CARGO) test --release --package mmvisor --test linux -- differential --nocapture --test-threads 1

## N random calls of programs on their own address spaces, natively and in a guest: what they see is the same.
fuzz-program: N = 100000
fuzz-program: linker
	MMVISOR_FUZZ_PROGRAM=1 MMVISOR_FUZZ_CALLS=$(N) MMVISOR_FUZZ_SEED=$(SEED) \
	    $(CARGO) test --release --package mmvisor --test linux -- differential --nocapture

## One vCPU writes what another takes away from it, N times in each of eight ways, under the host's KVM and
## in the nested machine under NPT and SHADOW: a third of a second a time there.
race: N = 1000
race: build nested-setup
	for pages in private shared; do \
	    $(BIN)/mmvisor run --machine kvm $(BIN)/race $(N) 1 $$pages || exit; \
	    for kvm in npt shadow; do \
	        $(BIN)/mmvisor nested run --kvm $$kvm --timeout $$((60 + 2 * $(N))) --file $(BIN)/race:/race -- \
	            /init run --machine kvm /race $(N) 1 $$pages || exit; \
	    done; \
	done

## The memory manager under shuttle: ORDERS random orders of each scenario of several vCPUs.
ORDERS ?= 100000
INTERLEAVE = $(CARGO) test --manifest-path mm/interleave/Cargo.toml --target-dir target/interleave --test space
interleave: linker
	INTERLEAVE_ORDERS=$(ORDERS) $(INTERLEAVE) --release

## The memory manager under libFuzzer, for FUZZ_SECONDS; `make test` runs the same target on random
## bytes. Needs a nightly toolchain and cargo-fuzz.
FUZZ_SECONDS ?= 60
fuzz-mm:
	@cargo +nightly --version >/dev/null 2>&1 || { echo "libFuzzer needs a nightly toolchain: rustup toolchain install nightly" >&2; exit 1; }
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo fuzz is not here: cargo install cargo-fuzz" >&2; exit 1; }
	cd mm && cargo +nightly fuzz run --sanitizer none raw_calls -- -max_len=2048 -max_total_time=$(FUZZ_SECONDS)

## The pure parts of the memory manager under Miri, all of its unsafe code among them: minutes.
## MIRI_TESTS=space::tests:: has whole address spaces, which take hours.
MIRI_TESTS ?= vma:: paging:: phys:: failure::
miri:
	@if cargo +nightly miri --version >/dev/null 2>&1; then \
	    PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --package mmvisor-mm --lib -- $(MIRI_TESTS); \
	else \
	    echo "Miri is not run: there is no nightly toolchain with it (rustup +nightly component add miri)."; \
	fi

## What .ci/run checks beside the tests.
check: linker
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- --deny warnings

clean:
	$(CARGO) clean
