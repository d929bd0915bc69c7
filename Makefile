# SPDX-License-Identifier: Apache-2.0
# The short way to everything; each target is a few commands one may also type. `make` lists them.
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
CMAKE_FLAGS ?=
AARCH64_TESTS ?= .
CASES ?= $(wildcard $(addprefix ../shared/golden/,ncps-* tirex-tiny))
SOURCES = $(shell find carousel tests -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help deps dev-deps build install demo test cuda-test bench check check-aarch64 check-format check-loaders check-sanitize check-serve-threads check-threads fuzz format clean

help:  ## list the targets
	@echo "carousel: recurrent and hybrid sequence models"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18 | sed 's/^/  make /'

deps:  ## install the packages the build needs (Debian, Ubuntu); does nothing when they are there
	@tools/install_deps.sh

dev-deps:  ## also clang, clang-format and the sanitizer runtimes, for `make check`
	@tools/install_deps.sh --dev

build: deps  ## build the release: build/release/carousel
	@test -f build/release/build.ninja || cmake --preset release $(CMAKE_FLAGS)
	@cmake --build --preset release -j $(JOBS) --target carousel_cli

install: deps  ## build, then install under PREFIX (/usr/local): binary, libraries, headers, CMake and pkg-config files
	@test -f build/release/build.ninja || cmake --preset release $(CMAKE_FLAGS)
	@cmake --build --preset release -j $(JOBS) --target carousel_all
	@DESTDIR="$(DESTDIR)" cmake --install build/release --prefix "$(PREFIX)"

demo: build  ## build, then stream a story from the bundled 8.5M-parameter xLSTM
	@echo "== carousel generate models/stories-xlstm -p \"Once upon a time\" -n 200 --seed 1"
	@build/release/carousel generate models/stories-xlstm -p "Once upon a time" -n 200 --seed 1

test: deps  ## build everything and run all tests
	@test -f build/release/build.ninja || cmake --preset release $(CMAKE_FLAGS)
	@cmake --build --preset release -j $(JOBS)
	@ctest --preset release -j $(JOBS) --progress

cuda-test: build  ## pack what a machine with a GPU needs to test the kernels there: dist/carousel-cuda-test.tar.xz
	@cmake --build --preset release -j $(JOBS) --target carousel_op_tests
	@tools/pack_cuda_test.sh build/release dist/carousel-cuda-test.tar.xz $(CASES)

bench: build  ## measure the machine's bounds, then the bundled model
	@build/release/carousel bench --bounds
	@build/release/carousel bench models/stories-xlstm -p 512 -n 64

check: check-format check-sanitize check-threads fuzz  ## formatting, sanitizers and a minute of every fuzz target

check-format:  ## fail on a source that clang-format would change
	@clang-format --dry-run --Werror $(SOURCES)

check-sanitize: dev-deps  ## the test suite under AddressSanitizer and UndefinedBehaviorSanitizer
	@test -f build/sanitize/build.ninja || cmake --preset sanitize $(CMAKE_FLAGS)
	@cmake --build --preset sanitize -j $(JOBS)
	@ctest --preset sanitize -j $(JOBS) --progress

check-loaders: dev-deps  ## what reads files and requests under the sanitizers, then FUZZ_SECONDS of every fuzz target
	@test -f build/loaders/build.ninja || cmake --preset loaders $(CMAKE_FLAGS)
	@cmake --build --preset loaders -j $(JOBS) --target carousel_tests
	@ctest --preset loaders -j $(JOBS) --progress
	@FUZZ_PRESET=loaders tools/fuzz.sh $(FUZZ_SECONDS)

check-aarch64:  ## cross-compile for aarch64 and run the tests under qemu-user; AARCH64_TESTS=REGEX for some of them
	@tools/install_deps.sh --aarch64
	@test -f build/aarch64/build.ninja || cmake --preset aarch64 $(CMAKE_FLAGS)
	@cmake --build --preset aarch64 -j $(JOBS)
	@ctest --preset aarch64 -j $(JOBS) --progress -R '$(AARCH64_TESTS)'
	@echo "== and on a processor without dot products"
	@qemu-aarch64 -cpu cortex-a53 -L /usr/aarch64-linux-gnu build/aarch64/tests/carousel_tests --gtest_brief=1 \
	  --gtest_filter='Isa.*:Linear.Threads*:Linear.BlockWeightsGive*:Linear.RowAlone*:Mlstm*.*'

check-threads: deps  ## the thread pool's tests under ThreadSanitizer
	@test -f build/tsan/build.ninja || cmake --preset tsan $(CMAKE_FLAGS)
	@cmake --build --preset tsan -j $(JOBS) --target carousel_thread_tests
	@ctest --preset tsan

check-serve-threads: deps  ## the server's tests under ThreadSanitizer, which builds the whole library first
	@test -f build/tsan/build.ninja || cmake --preset tsan $(CMAKE_FLAGS)
	@cmake --build --preset tsan -j $(JOBS) --target carousel_serve_tests
	@build/tsan/tests/carousel_serve_tests --gtest_brief=1

fuzz: dev-deps  ## run every fuzz target for FUZZ_SECONDS (60)
	@tools/fuzz.sh $(FUZZ_SECONDS)

format: dev-deps  ## clang-format all sources in place
	@clang-format -i $(SOURCES)

clean:  ## remove everything built
	rm -rf build
