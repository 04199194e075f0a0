# libFuzzer on the reader of libfastrnn's files, with the kernels that every processor runs, under AddressSanitizer and
# UndefinedBehaviorSanitizer. ARGS are libFuzzer's. It goes on from files of every kind, and from what it has found before.

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

.PHONY: library
library:
	@$(MAKE) --no-print-directory -s -j $(shell nproc) -f csrc/library.mk OUT=$(OUT) CXX=clang++ CXXFLAGS="$(FLAGS)" \
	  $(OUT)/libfastrnn.a
