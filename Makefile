# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
#
#   make check     run lint, types, unit tests and the API reference; needs no root and no BPF, and
#                  installs no Debian packages; takes about a minute on two cores
#   make demo      install what is missing, build, and print this machine's statistics
#   make test      install what is missing, and run every check and test
#   make test-all  the same on every kernel, userland and architecture of the lab
#   make bench     time the package and its alternatives on this machine
#   make bench-lab the same in two guests, in instructions, beside the results of make bench
#
# `make test` runs these targets, which can also be run alone: lint types unit docs live systems lab.
# `make test-all` runs lab-all instead of lab.
# `make docs` builds the API reference from the docstrings, into build/docs.
# `make seed-kernel` builds the kernel of the guest "seed" (10 minutes, once); `make lab LAB=seed`
# boots it. `make docs-kernels` writes docs/kernels.md from the record of lab-all, and `make docs-tables`
# the tables of docs/items.md and docs/limits.md from the code.

PYTHON ?= python3
VENV := build/venv
RUN := $(VENV)/bin/python
# Tests run outside the source tree, so that they import the installed wheel.
AWAY := build/away
PYTEST := cd $(AWAY) && ../../$(RUN) -m pytest -p no:cacheprovider

BUILD_PACKAGES := clang llvm libbpf-dev libbpf1 python3-venv
TEST_PACKAGES := gcc libc6-dev shellcheck qemu-system-x86 cpio e2fsprogs debian-archive-keyring \
	prometheus zsh fish
ALL_PACKAGES := qemu-system-arm
SEED_PACKAGES := bc bison dwarves flex libelf-dev xz-utils
LAB_RECORD := build/lab/all.json
BENCH_RECORD := build/bench.json
BENCH_GUESTS := 7.3@trixie 6.12@trixie
TEST_TOOLS := ruff==0.17.* mypy==2.4.* 'pyright[nodejs]==1.1.414' types-setuptools 'setuptools>=77' vermin \
	pytest==9.* hypothesis==6.* pyte==0.8.* prometheus_client==0.* \
	'opentelemetry-sdk==1.*' pyyaml==6.* types-PyYAML \
	'sphinx>=7.4,<10' numpy==2.* 'pandas>=2.2,<4' 'polars>=1,<3' 'pyarrow>=18,<27'
# `make check` looks for these commands instead of Debian packages: COMMAND:PACKAGE.
CHECK_COMMANDS := $(or $(CLANG),clang):clang llvm-strip:llvm gcc:gcc dpkg:dpkg shellcheck:shellcheck \
	promtool:prometheus
# `make check` sets this to nothing, so that no rule installs Debian packages.
INSTALL := yes

PACKAGE_FILES := $(shell find pymemcgbpf bpf_src -name '*.py' -o -name '*.[ch]' -o -name py.typed) \
	setup.cfg pyproject.toml README.md LICENSE

.PHONY: check demo test test-all commands lint types unit docs live systems lab lab-all seed-kernel \
	docs-kernels docs-tables bench bench-lab wheel clean
.DELETE_ON_ERROR:

check: commands
	@$(MAKE) --no-print-directory INSTALL= lint types unit docs

# Names the commands and headers that `make check` needs and that are missing.
commands:
	@missing=; packages=; \
	for pair in $(CHECK_COMMANDS); do \
		command -v "$${pair%:*}" >/dev/null || \
			{ missing="$$missing $${pair%:*}"; packages="$$packages $${pair##*:}"; }; \
	done; \
	[ -e /usr/include/bpf/bpf_helpers.h ] || \
		{ missing="$$missing bpf/bpf_helpers.h"; packages="$$packages libbpf-dev"; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ missing="$$missing $(PYTHON)-with-venv"; packages="$$packages python3-venv"; }; \
	if [ -n "$$missing" ]; then \
		echo "make check lacks$$missing: install$$packages (these are the names of Debian's" \
			"packages), or run make test as root, which installs them" >&2; exit 1; \
	fi

demo: build/installed
	@echo
	@echo "The memory of the cgroup that this shell is in, by $(VENV)/bin/pymemcgbpf:"
	@"$(CURDIR)/$(VENV)/bin/pymemcgbpf"
	@echo
	@echo "How it was read is told by: $(VENV)/bin/pymemcgbpf doctor"

test: lint types unit docs live systems lab

test-all: lint types unit docs live systems lab-all

lint: build/tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/vermin -q --target=3.9- --no-tips --violations pymemcgbpf bpf_src
	shellcheck .ci/run $$(find tests -name '*.sh')

types: build/tools
	$(VENV)/bin/mypy

unit: $(AWAY)/ready
	$(PYTEST) tests/unit tests/vm tests/seed_kernel
	$(PYTEST) tests/tables

# Any warning of Sphinx fails this target, such as a broken reference or invalid reST.
docs: $(AWAY)/ready
	cd $(AWAY) && ../../$(RUN) -m sphinx -q -E -W --keep-going -b html "$(CURDIR)/docs/reference" \
		"$(CURDIR)/build/docs"

live: $(AWAY)/ready
	cd $(AWAY) && ../../$(RUN) -m tests.kernel -p no:cacheprovider

# With a real Prometheus, on the live kernel.
systems: $(AWAY)/ready
	cd $(AWAY) && ../../$(RUN) -m tests.systems -p no:cacheprovider

lab: $(AWAY)/ready $(if $(findstring /arm64,$(LAB)),build/all-packages) \
		$(if $(filter seed seed@%,$(LAB)),seed-kernel)
	$(RUN) -m tests.vm --wheel dist/*.whl $(LAB)

lab-all: $(AWAY)/ready build/all-packages seed-kernel
	$(RUN) -m tests.vm --all --wheel dist/*.whl --json $(LAB_RECORD)

seed-kernel: build/seed-packages
	$(PYTHON) -m tests.seed_kernel

# The parts of docs/items.md and docs/limits.md that come from the code.
docs-tables: build/tools
	$(RUN) -W "ignore:this is the source tree:RuntimeWarning" -m tests.docs.items
	$(RUN) -W "ignore:this is the source tree:RuntimeWarning" -m tests.docs.features

docs-kernels:
	$(PYTHON) -m tests.vm.kernel_table $(LAB_RECORD) --output docs/kernels.md

bench: $(AWAY)/ready
	cd $(AWAY) && ../../$(RUN) -m tests.bench --json "$(CURDIR)/$(BENCH_RECORD)" $(BENCH)

# The source tree's package only prints the tables. The guests time the wheel.
bench-lab: $(AWAY)/ready
	$(RUN) -W "ignore:this is the source tree:RuntimeWarning" -m tests.bench --lab $(BENCH_GUESTS) --wheel dist/*.whl \
		$(addprefix --beside ,$(wildcard $(BENCH_RECORD))) $(BENCH)

wheel: build/installed

# --- prerequisites of the targets above ---------------------------------------------

# Installs the Debian packages that are missing.
define install_packages
	@missing=$$(for package in $(1); do \
		dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; \
	done); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		if ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
			echo "these Debian packages are missing; run as root: apt-get install $$missing" >&2; exit 1; \
		fi; \
		apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing >/dev/null; \
	fi
endef

build/packages: Makefile
	$(call install_packages,$(BUILD_PACKAGES))
	@mkdir -p build && touch $@

build/test-packages: build/packages
	$(call install_packages,$(TEST_PACKAGES))
	@touch $@

build/all-packages: build/test-packages
	$(call install_packages,$(ALL_PACKAGES))
	@touch $@

build/seed-packages: build/test-packages
	$(call install_packages,$(SEED_PACKAGES))
	@touch $@

$(VENV)/ready: $(if $(INSTALL),build/packages)
	@mkdir -p build
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

build/tools: Makefile $(VENV)/ready $(if $(INSTALL),build/test-packages)
	$(RUN) -m pip install -q --disable-pip-version-check $(TEST_TOOLS)
	@touch $@

build/installed: $(VENV)/ready $(PACKAGE_FILES)
	@rm -rf dist build/lib
	$(RUN) -m pip wheel -q --disable-pip-version-check --no-deps -w dist .
	$(RUN) -m pip install -q --disable-pip-version-check --no-deps --force-reinstall dist/*.whl
	@touch $@

$(AWAY)/ready: build/tools build/installed $(shell find tests -name '*.py' -o -name '*.sh' -o -name '*.[ch]' -o -name '*.config')
	@rm -rf $(AWAY) && mkdir -p $(AWAY)
	@cp -r tests bpf_src pyproject.toml $(AWAY)
	@touch $@

clean:
	rm -rf build dist *.egg-info
