# The extension compiled by Clang, without a warning, and the tests of what a compiler can break.

COPY := .clang
ARGS ?=
TESTS := $(addprefix tests/test_,kernels.py layers.py threads.py openmp.py)

.PHONY: clang
.DEFAULT_GOAL := clang

clang: copy
	cd $(COPY) && PATH="$(dir $(PY)):$$PATH" CC=clang CXX=clang++ CFLAGS=-Werror $(PY) setup.py -q build_ext --inplace
	cd $(COPY) && $(PY) -m pytest $(TESTS) $(ARGS)

include tests/copy.mk
