# Two targets are all that a newcomer needs, on a bare Debian with root or sudo: `make demo` and `make test`.
# The build itself is CMake's (see CMakePresets.json); this file gets what it needs and calls it.
.DEFAULT_GOAL := build
PREFIX ?= /usr/local
SECONDS_EACH ?= 60

.PHONY: build demo test bench measure results fuzz fmt lint install clean help

build: ## the library, the plug-in and build/bin/tightkv
	@scripts/setup.sh build
	@scripts/llama.sh
	@scripts/report.sh
	@cmake --preset release
	@cmake --build --preset release

demo: build ## what it does, on this machine, in minutes
	@build/bin/tightkv demo --output build/demo

test: ## every test: release, sanitizers, unoptimised kernels, NEON under an emulator
	@scripts/setup.sh build test
	@scripts/llama.sh
	@scripts/report.sh
	@scripts/test.sh release debug O0 neon

bench: build ## attention and encoding on this machine against stock llama.cpp
	@scripts/bench.sh

measure: build ## the runs behind docs/results.md that are not there yet (MODEL=, EVAL=, TWIN=: see scripts/measure.sh)
	@scripts/measure.sh

results: ## docs/results.md from its template and the JSON in docs/results
	@tools/results.py

fuzz: ## each fuzz target for SECONDS_EACH seconds
	@scripts/setup.sh build fuzz
	@scripts/fuzz.sh $(SECONDS_EACH)

fmt: ## formats the sources
	@scripts/setup.sh lint
	@git ls-files '*.c' '*.h' | xargs clang-format -i

lint: ## clang-tidy, cppcheck, shellcheck, codespell
	@scripts/setup.sh build lint
	@scripts/lint.sh

install: build ## to PREFIX
	@cmake --install build --prefix $(PREFIX)

clean: ## what was built here (llama.cpp stays in the user's cache)
	rm -rf build build-*

help:
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' Makefile
