# libFuzzer on the reader of libfastrnn's files, with the kernels that every processor runs, under AddressSanitizer and
# UndefinedBehaviorSanitizer. ARGS are libFuzzer's. It goes on from files of every kind, and from what it found before.

OUT := build/fuzz-library
ARGS ?= -max_total_time=600
PY ?= python3

# As in sanitize.mk, two checks that double the time to compile are left out.
FLAGS := -O1 -g1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize=null,object-size -fno-sanitize-recover=all

.PHONY: fuzz
fuzz: $(OUT)/fuzz $(OUT)/seeds
	@mkdir -p $(OUT)/corpus
	FASTRNN_CPU_ISA=baseline $< -max_len=4096 -rss_limit_mb=4096 -timeout=10 -dict=tests/fuzz_library.dict \
	  -artifact_prefix=$(OUT)/ -print_final_stats=1 $(ARGS) $(OUT)/corpus $(OUT)/seeds

$(OUT)/fuzz: library tests/fuzz_library.cpp
	clang++ @csrc/flags $(FLAGS) -fsanitize=fuzzer -iquote csrc tests/fuzz_library.cpp $(OUT)/libfastrnn.a -o $@

$(OUT)/seeds: tests/fuzz_library.py
	$(PY) tests/fuzz_library.py $@
	@touch $@

# The kernels of other instruction sets are only linked.
OTHERS := $(patsubst csrc/%.cpp,$(OUT)/%.o,$(filter-out %/isa_baseline.cpp %/isa_software_tiles.cpp, \
  $(wildcard csrc/kernels/*.cpp)))
BUILD = $(MAKE) --no-print-directory -s -j $(shell nproc) -f csrc/library.mk OUT=$(OUT) CXX=clang++

.PHONY: library
library:
	@$(BUILD) CXXFLAGS=-O0 $(OTHERS)
	@$(BUILD) CXXFLAGS="$(FLAGS)" $(OUT)/libfastrnn.a
