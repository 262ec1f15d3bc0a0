# `make` alone lists the targets. They set up all they need in .venv, given Rust and Python.

# The first target is the default. A target with `## text` behind it is public; this shows the text.
help: ## List the targets (this list)
	@echo "make TARGET, with one of these targets:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

PYTHON ?= python3
VENV := .venv
CLIENTS := .venv-clients
# Families of clients that are routed, each in an environment of its own: see tests/families.
OPENAI2 := .venv-openai2
FRAMEWORKS := .venv-frameworks
# LiteLLM's Router and its proxy, and the oldest LiteLLM: see tests/integrations/litellm.
LITELLM_PROXY := .venv-litellm-proxy
LITELLM_OLDEST := .venv-litellm-oldest
# One for each interpreter that soaks: make soak PYTHON=python3.13
SOAK := .venv-soak-$(notdir $(PYTHON))
BIN := $(VENV)/bin
export PATH := $(PATH):$(HOME)/.cargo/bin
export VIRTUAL_ENV := $(CURDIR)/$(VENV)

RUST_SOURCES := Cargo.toml Cargo.lock $(shell find src -name '*.rs')
FLOOR := benches/floor/Cargo.toml
FLOOR_SOURCES := $(FLOOR) benches/floor/Cargo.lock $(wildcard benches/floor/src/*.rs)

# Other flags and so a directory of their own: otherwise each build would throw the other's away.
SCHEDULES := RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/schedules

# How long `make soak` and `make fuzz` run, and the seed of all that they do at random; without one they choose and print it.
MINUTES ?= 10
SEED ?=

# How many requests four processes send under each kind of fault in `make test-endurance`, which takes two minutes for a million, and
# how often `make test-faults` repeats each fault.
REQUESTS ?= 1000000
ROUNDS ?= 10

# What `make deny` checks. Advisories need the network, the others do not: make deny CHECKS="licenses bans sources"
CHECKS ?= advisories licenses bans sources

.PHONY: help demo demo-shared test test-clients test-httpx test-litellm test-schedules test-miri test-endurance test-faults lint format format-check
.PHONY: docs docs-rust docs-serve deny install-check wheels hooks
.PHONY: soak fuzz test-free-threaded bench bench-beside bench-requests bench-simulated bench-shared bench-plot bench-rust bench-peers clean

demo: $(VENV)/.demo $(VENV)/.built ## Run the demo: five servers, 600 requests of the openai SDK, a table
	$(BIN)/python examples/demo.py

demo-shared: $(VENV)/.demo $(VENV)/.built ## Let four workers share a quota, kill one, and show what each admitted
	$(BIN)/python examples/demo_shared.py

test: $(VENV)/.test $(VENV)/.built ## Run all tests, Rust and Python
	cargo test --no-default-features
	$(MAKE) test-schedules
	$(BIN)/python -m pytest
	$(MAKE) test-clients
	$(MAKE) test-litellm

# The exceptions of real client libraries. They stay out of the environment of the other tests, which pin little.
test-clients: $(CLIENTS)/.clients $(FRAMEWORKS)/.family $(VENV)/.built ## Run the tests of real client libraries (part of test)
	$(CLIENTS)/bin/python -m pytest tests/clients tests/test_outcomes.py
	$(CLIENTS)/bin/python -m pytest tests/test_docs.py -k "run_from_top and clients"
	$(MAKE) test-httpx
	$(FRAMEWORKS)/bin/python -m pytest tests/families
	$(FRAMEWORKS)/bin/python -m pytest tests/test_docs.py -k "run_from_top and clients"

# openai 3 and anthropic 2, which are built on httpx2, are in the environment of the other tests. This one is built on httpx.
test-httpx: $(OPENAI2)/.family $(VENV)/.built ## Run the tests of routed requests with openai 2 (part of test)
	$(OPENAI2)/bin/python -m pytest tests/families
	$(OPENAI2)/bin/python -m pytest tests/test_docs.py -k "run_from_top and clients"

# turnout in the place of LiteLLM's Router, in it, and in its proxy, which is started as a user starts it.
test-litellm: $(LITELLM_PROXY)/.group $(LITELLM_OLDEST)/.group $(VENV)/.built ## Run the tests of turnout beside LiteLLM (part of test)
	$(LITELLM_PROXY)/bin/python -m pytest tests/integrations/litellm
	$(LITELLM_PROXY)/bin/python -m pytest tests/test_docs.py -k "litellm and (run_from_top or docstrings)"
	$(LITELLM_OLDEST)/bin/python -m pytest tests/integrations/litellm

# The core under schedules that a scheduler chooses: see tests/schedules.rs.
test-schedules: ## Run the tests of schedules alone (part of test)
	$(SCHEDULES) cargo test --profile schedules --no-default-features --test schedules

# The memory orders, which schedules leave out: see docs/decisions/0004-schedules-and-miri.md. Needs a nightly toolchain with miri.
test-miri: ## Check the memory orders; needs a nightly Rust with miri
	MIRIFLAGS=-Zmiri-many-seeds=0..4 cargo +nightly miri test --no-default-features --lib limits::minute

# Some millions of requests of many processes in virtual time, for each kind of fault: see src/sharing/endure.rs.
test-endurance: ## Look for one request too many under each kind of fault: REQUESTS=1000000
	TURNOUT_REQUESTS=$(REQUESTS) cargo test --profile schedules --no-default-features --lib sharing::endure -- --ignored --nocapture

# The faults that real processes and servers have, at other random moments each round. A round takes three minutes.
test-faults: $(VENV)/.test $(VENV)/.built ## Repeat the faults of processes and servers that share: ROUNDS=10
	TURNOUT_FAULT_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest tests/shared/test_faults.py

# On a build with the checks of a debug build, in an environment of its own: see docs/proof.md.
soak: $(SOAK)/.built ## Run everything at once beside a ledger: MINUTES=10 SEED=…
	PYTHONPATH=tests $(SOAK)/bin/python -m soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

fuzz: $(SOAK)/.built ## Call everything with anything: MINUTES=10 SEED=…
	PYTHONPATH=tests $(SOAK)/bin/python -m fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# The suite and a soak on an interpreter without the GIL: make test-free-threaded PYTHON=python3.14t
test-free-threaded: $(SOAK)/.built ## Run the tests and a soak on another interpreter: PYTHON=python3.14t
	$(SOAK)/bin/python -c "import sysconfig; assert sysconfig.get_config_var('Py_GIL_DISABLED'), 'PYTHON has the GIL'"
	$(SOAK)/bin/python -m pytest
	PYTHONPATH=tests $(SOAK)/bin/python -m soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lint: format-check $(VENV)/.test $(VENV)/.demo $(VENV)/.built ## Check formats, lints, types, stubs, docs and workflows
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --no-default-features -- -D warnings
	cargo clippy --manifest-path $(FLOOR) --target-dir target -- -D warnings
	$(SCHEDULES) cargo clippy --profile schedules --no-default-features --test schedules -- -D warnings
	$(MAKE) docs
	$(BIN)/python scripts/floors.py
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest turnout --mypy-config-file pyproject.toml --allowlist tests/stubtest-allowlist.txt
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github

format: $(VENV)/.lint ## Format the code and fix what lints can fix
	cargo fmt
	cargo fmt --manifest-path $(FLOOR)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The quick part of lint, for before every commit: about a second.
format-check: $(VENV)/.lint ## Check the formats and the quick lints, without changes
	cargo fmt --check
	cargo fmt --check --manifest-path $(FLOOR)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The site of docs/ is in target/site afterwards. It reads the sources as text and needs no build of the core. Not --quiet: that
# would hide warnings from --strict too.
docs: docs-rust $(VENV)/.docs ## Build the site of docs/ and the documentation of the core; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.docs ## Serve the site of docs/ on loopback, and build it again after each change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict --watch python

# With the Python half, which needs a Python, and without it, which is what stays in target/doc.
docs-rust: $(VENV)/.venv ## Build the documentation of the Rust core; a warning is an error (part of docs)
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --no-default-features

# Not a part of lint: cargo-deny comes from no Python package and takes minutes to build.
deny: ## Check the dependencies: advisories, licences, sources; needs cargo-deny
	@cargo deny --version >/dev/null 2>&1 || { echo "make deny needs cargo-deny: cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny check $(CHECKS)

# As a user installs it, in a virtual environment of its own.
install-check: ## Install the package as a user does, and try it
	rm -rf target/install-check
	$(PYTHON) -m venv target/install-check
	target/install-check/bin/python -m pip install --quiet .
	target/install-check/bin/python tests/smoke.py

# Each is tried in an environment of its own: see scripts/wheels.py. Takes a minute an interpreter.
wheels: $(VENV)/.wheels ## Build and try the source distribution, and a wheel for each CPython that is here
	$(BIN)/python scripts/wheels.py

# Before a commit format-check runs, before a push lint: see .pre-commit-config.yaml.
hooks: $(VENV)/.hooks ## Install the git hooks that check commits and pushes
	$(BIN)/pre-commit install

# Through Python, beside an empty native call, a pure-Python twin and whichever peers are installed, and against the budgets.
# Takes up to a quarter of an hour with the peers, less than four minutes without.
bench: $(VENV)/.built $(VENV)/.floor ## Measure through Python, beside peers; up to 15 minutes
	$(BIN)/python benches/compare.py
	$(BIN)/python benches/beside_litellm.py
	$(BIN)/python benches/import_time.py

bench-requests: $(VENV)/.test $(VENV)/.built ## Measure routed requests of an SDK beside plain ones; three minutes
	$(BIN)/python benches/routed.py

# The working tree beside another revision, each built as it ships: make bench-beside REV=HEAD~1. Fails where the tree is surely more
# than 5 % slower. Takes five minutes after the builds.
bench-beside: $(VENV)/.venv ## Compare with another revision: REV=HEAD~1; five minutes
	@test -n "$(REV)" || { echo "which revision? make bench-beside REV=HEAD~1" >&2; exit 2; }
	$(BIN)/python benches/beside.py "$(REV)"

# Decisions in simulated time, against their budgets: limits and fast failures. Ten seconds after the build.
bench-simulated: $(VENV)/.built ## Count 429s and failures in simulated time; ten seconds
	$(BIN)/python benches/limits.py
	$(BIN)/python benches/black_hole.py

# What it costs to share limits between processes, and what it gives. Parts need redis-server. Six minutes after the build.
bench-shared: $(VENV)/.test $(VENV)/.built ## Measure limits that processes share, beside round trips; six minutes
	PYTHONPATH=tests $(BIN)/python benches/sharing.py

bench-plot: $(VENV)/.plot ## Draw docs/cost.svg from the last bench
	$(BIN)/python benches/plot.py

bench-rust: ## Measure the Rust core alone
	cargo bench --no-default-features

bench-peers: $(VENV)/.built ## Install the peers that bench compares with
	$(BIN)/maturin develop --release --quiet --extras bench

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" "maturin>=1.9.4,<2"
	touch $@

# Editable: the Python half is used from where it is, the native half is built when its sources change.
$(VENV)/.built: $(VENV)/.venv pyproject.toml $(RUST_SOURCES)
	$(BIN)/maturin develop --release --quiet
	touch $@

# The package is used from where it is, with the native half of the other environment.
$(CLIENTS)/.clients: pyproject.toml
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(CLIENTS)/bin/python -m pip install --quiet --group clients
	echo "$(CURDIR)/python" > "$$($(CLIENTS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/turnout.pth"
	touch $@

.venv-%/.group: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-$*/bin/python -m pip install --quiet --group $*
	echo "$(CURDIR)/python" > "$$(.venv-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/turnout.pth"
	touch $@

.venv-%/.family: pyproject.toml
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-$*/bin/python -m pip install --quiet --group family-$*
	echo "$(CURDIR)/python" > "$$(.venv-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/turnout.pth"
	touch $@

# Not editable: there the native half would take the place of the release build.
$(SOAK)/.built: pyproject.toml $(RUST_SOURCES) $(shell find python -name '*.py')
	$(PYTHON) -m venv $(SOAK)
	$(SOAK)/bin/python -m pip install --quiet --upgrade "pip>=25.1" "maturin>=1.9.4,<2"
	$(SOAK)/bin/python -m pip install --quiet --group test
	rm -rf target/$(SOAK)/wheels
	$(SOAK)/bin/maturin build --quiet --profile soak --target-dir target/$(SOAK) --out target/$(SOAK)/wheels --interpreter $(SOAK)/bin/python
	$(SOAK)/bin/python -m pip install --quiet --force-reinstall --no-deps target/$(SOAK)/wheels/*.whl
	touch $@

$(VENV)/.floor: $(VENV)/.venv $(FLOOR_SOURCES)
	$(BIN)/maturin develop --release --quiet --manifest-path $(FLOOR) --target-dir target
	touch $@

$(VENV)/.demo $(VENV)/.docs $(VENV)/.test $(VENV)/.lint $(VENV)/.plot $(VENV)/.wheels $(VENV)/.hooks: $(VENV)/.%: $(VENV)/.venv pyproject.toml
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

clean: ## Remove the virtual environments and target
	rm -rf $(VENV) $(CLIENTS) $(OPENAI2) $(FRAMEWORKS) $(LITELLM_PROXY) $(LITELLM_OLDEST) .venv-soak-* target
