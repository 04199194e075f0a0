# Every target sets up what it needs: the virtual environment, the pinned packages, the compiled extension.
# Stamps in .venv record what is done, so that a second run repeats nothing.

# TORCH=2.14.1: the same in a copy of the sources, so that no extension takes the place of one for another torch.
ifdef TORCH
include tests/versions.mk
else

VENV := .venv
PY := $(VENV)/bin/python
# For make gpu, which installs and compiles nothing: PyTorch in the environment is built without CUDA, so it comes second.
HAS_TORCH := -c 'import sys; from importlib.util import find_spec as f; sys.exit(not (f("torch") and f("triton")))'
GPU_PYTHON ?= $(shell python3 $(HAS_TORCH) 2>/dev/null && echo python3 || echo $(PY))

# Without PYTHON=..., an environment that exists is kept; with it, one of another Python version is made anew.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(if $(wildcard $(PY)),$(PY),python3)
endif
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

ENVIRONMENT := $(VENV)/.made-with-python-$(VERSION)
PACKAGES := $(VENV)/.packages
DOCS := $(VENV)/.docs
EXTENSION := $(VENV)/.extension

CXX_SOURCES := $(wildcard csrc/*/*.h csrc/*/*.cpp tests/*.c tests/*.cpp tests/*/*.cpp benches/library/*.[ch] \
  benches/library/*.cpp examples/c/*.c)

.PHONY: help demo compare notebooks test fuzz wheel core library check-library fuzz-library sanitize clang arm bench gpu \
  docs lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    what you gain: poems on torch.nn.LSTM and fastrnn.LSTM, then other layers (DATA=path: another text)"
	@echo "make compare RNN, GRU, LSTM and a Transformer on the same tasks: size, time, memory, quality, gradients"
	@echo "make notebooks  why did my RNN forget, and how fast is it here: two notebooks as scripts, with pictures"
	@echo "make test    run the tests (ARGS='-k lstm' passes options to pytest)"
	@echo "make fuzz    compute random layers and compare them with the reference (ARGS='--minutes 10')"
	@echo "make wheel   the package compiled, for this Python and torch and users without a compiler, in dist/"
	@echo "make core    the CPU kernels as a library without torch and Python, build/core/libfastrnn_core.a"
	@echo "make library the library for programs without Python, installed: PREFIX=/usr/local, or build/libfastrnn"
	@echo "make check-library  test it, on this machine and for 64-bit Arm in an emulator (ARGS as above)"
	@echo "make fuzz-library   files of any bytes through it, with libFuzzer (ARGS='-max_total_time=600')"
	@echo "make sanitize  run these kernels on random layers under sanitizers, of memory and of threads (ARGS='--seconds 60')"
	@echo "make clang   compile the extension with Clang and test that (ARGS as above)"
	@echo "make arm     compile the CPU kernels for 64-bit Arm and test them in an emulator (ARGS as above)"
	@echo "make bench   run the benchmarks (ARGS as above)"
	@echo "make gpu     on a machine with a GPU: check the results, time barriers and layers (ARGS='--part checks --only gru')"
	@echo "make docs    build the documentation, build/docs/index.html, with every link and anchor checked"
	@echo "make lint    check style and types;  make format  rewrite to the style"
	@echo "make clean   remove build outputs and caches"
	@echo "PYTHON=python3.12 make ...  uses that interpreter (3.10 or newer)"
	@echo "make test TORCH=2.14.1  tests with that torch, in an environment of its own (also other targets)"

demo: $(EXTENSION)
	$(PY) -m fastrnn.examples.demo $(if $(DATA),--data "$(DATA)") $(ARGS)

compare: $(EXTENSION)
	$(PY) -m fastrnn.examples.compare $(ARGS)

notebooks: $(EXTENSION)
	$(PY) -m fastrnn.examples.forgetting
	$(PY) -m fastrnn.examples.how_fast

test: $(EXTENSION)
	$(PY) -m pytest tests --ignore tests/test_arm.py --ignore tests/test_library.py $(ARGS)

fuzz: $(EXTENSION)
	$(PY) -m tests.fuzz $(ARGS)

# What is left in build/lib of sources that are gone would be packed too. Torch's libraries stay torch's.
wheel: $(PACKAGES)
	$(CAN_COMPILE)
	rm -rf build/wheel build/lib.*
	mkdir -p build/wheel
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m build --wheel --no-isolation --outdir build/wheel \
	  --config-setting="--global-option=-q egg_info --pin-torch --egg-base=build/wheel"
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' \
	  --wheel-dir dist build/wheel/*.whl

core:
	$(MAKE) -f csrc/core.mk

library: PREFIX ?= build/libfastrnn
library:
	$(MAKE) --no-print-directory -f csrc/library.mk install PREFIX="$(PREFIX)"

check-library: $(EXTENSION)
	$(PY) -m pytest tests/test_library.py $(ARGS)

fuzz-library: $(EXTENSION)
	@command -v clang++ >/dev/null || { echo "make fuzz-library needs clang++. Install the package clang."; exit 1; }
	$(MAKE) --no-print-directory -f tests/fuzz_library.mk PY="$(PY)" $(if $(ARGS),ARGS="$(ARGS)")

sanitize:
	$(MAKE) --no-print-directory -f tests/sanitize.mk ARGS="$(ARGS)"

clang: $(PACKAGES)
	@command -v clang++ >/dev/null || { echo "make clang needs clang++. Install the package clang."; exit 1; }
	$(MAKE) --no-print-directory -f tests/clang.mk PY="$(CURDIR)/$(PY)" ARGS="$(ARGS)"

arm: $(EXTENSION)
	@for tool in aarch64-linux-gnu-g++ qemu-aarch64; do command -v $$tool >/dev/null || { \
	  echo "make arm needs $$tool. Install the packages g++-aarch64-linux-gnu and qemu-user."; exit 1; }; done
	$(PY) -m pytest tests/test_arm.py $(ARGS)

bench: $(EXTENSION)
	$(PY) -m pytest benches $(ARGS)

gpu:
	@$(GPU_PYTHON) $(HAS_TORCH) 2>/dev/null \
	  || { echo "$(GPU_PYTHON) has no PyTorch with Triton. Try make gpu GPU_PYTHON=..."; exit 1; }
	$(GPU_PYTHON) -m benches.gpu $(ARGS)

docs: $(DOCS)
	$(PY) -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	$(PY) docs/check.py build/docs

lint: $(PACKAGES)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(PY) -m mypy

format: $(PACKAGES)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(VENV)/bin/clang-format -i $(CXX_SOURCES)

clean:
	rm -rf build dist *.egg-info fastrnn/*.so .pytest_cache .ruff_cache .mypy_cache
	rm -f $(PACKAGES) $(DOCS) $(EXTENSION)
	find . -name __pycache__ -type d -not -path './.*' -prune -exec rm -rf {} +

$(ENVIRONMENT):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "fastrnn needs Python 3.10 or newer; $(PYTHON) is $(or $(VERSION),not there). Try PYTHON=python3.12 make ..."; \
	  exit 1; }
	@if [ "$$($(PY) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != "$(VERSION)" ]; then \
	  echo "$(PYTHON) -m venv --clear $(VENV)"; $(PYTHON) -m venv --clear $(VENV); fi
	@touch $@

$(PACKAGES): requirements-dev.txt $(ENVIRONMENT)
	$(PY) -m pip install -r requirements-dev.txt
	@touch $@

$(DOCS): requirements-docs.txt $(PACKAGES)
	$(PY) -m pip install -r requirements-docs.txt
	@touch $@

define CAN_COMPILE
@set -- $${CXX:-c++}; command -v "$$1" >/dev/null || { \
  echo "fastrnn needs a C++ compiler; '$$1' is not there. Install GCC or Clang (package g++) or set CXX."; exit 1; }
@$(PY) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || { \
  echo "fastrnn needs the headers of Python $(VERSION) to build (package python$(VERSION)-dev)."; exit 1; }
endef

# Ninja lives in the environment, and torch looks for it on PATH.
$(EXTENSION): $(PACKAGES) setup.py pyproject.toml $(wildcard csrc/flags csrc/*/*)
	$(CAN_COMPILE)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m pip install --no-build-isolation --no-deps -e .
	@touch $@

endif
