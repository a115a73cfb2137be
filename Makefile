# The entry points of a newcomer and of CI. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

CARGO ?= cargo
BLOBDIR := target/release/blobdir
SCRIPTS := $(wildcard tests/external/*.sh tests/support/*.sh .ci/run)

.PHONY: help
help: ## list these
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: setup
setup: ## install what the tests need (Debian 12)
	@tests/support/setup.sh

.PHONY: build
build: ## the optimised program
	@tests/support/setup.sh rust
	$(CARGO) build --release --locked

# At a terminal: a tree to try things in, until Ctrl-C. Elsewhere: a tour of it that ends by itself.
.PHONY: demo
demo: build ## a mounted tree over built-in servers, without an account
	@if [[ -t 0 && -t 1 && $${CI:-} != true ]]; then \
	  $(BLOBDIR) demo; \
	else \
	  tests/support/setup.sh packages kernel; \
	  timeout --kill-after=60 900 $(BLOBDIR) demo -- "$(CURDIR)/tests/external/tour.sh"; \
	fi

.PHONY: check
check: setup lint test ## everything CI checks

.PHONY: lint
lint: ## formatting, lints, documentation, licences, scripts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --workspace --all-targets --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items --locked
	@if command -v cargo-deny >/dev/null; then \
	  $(CARGO) deny check licenses bans sources; \
	else \
	  echo "cargo-deny is not installed: licences and sources of the crates are not checked"; \
	fi
	@if command -v shellcheck >/dev/null; then \
	  shellcheck $(SCRIPTS); \
	else \
	  echo "shellcheck is not installed: the scripts are not checked"; \
	fi

# Every test runs, however many fail; the last line adds up all test binaries. The orders of the data
# path's tasks are tried in a workspace of their own.
.PHONY: test
test: ## every test, with the totals at the end
	@mkdir -p target; status=0; \
	$(CARGO) test --workspace --locked --no-fail-fast 2>&1 | tee target/test.log || status=$$?; \
	$(CARGO) test --locked --manifest-path tests/schedules/Cargo.toml --target-dir target/schedules 2>&1 \
	  | tee -a target/test.log || status=$$?; \
	awk '/^test result:/ { passed += $$4; failed += $$6; ignored += $$8 } \
	  END { printf "%d passed, %d failed, %d ignored\n", passed, failed, ignored }' target/test.log; \
	exit $$status

# All rows take about four minutes; for less of it: make bench ARGS="--quick --row write".
.PHONY: bench
bench: build ## the figures, each as a ratio
	$(CARGO) bench --locked --bench figures -- $(ARGS)

.PHONY: clean
clean: ## remove everything that was built or installed here
	$(CARGO) clean
