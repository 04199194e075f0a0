# The core library under sanitizers, on random layers: its memory under AddressSanitizer and
# UndefinedBehaviorSanitizer, its threads under ThreadSanitizer. Before that each has to find what is planted.

OUT := build/sanitize
ARGS ?=

# Two checks of undefined behaviour are left out, which double the time to compile: AddressSanitizer, too, sees a null
# pointer used and the end of an object passed.
memory := -fsanitize=address,undefined -fno-sanitize=null,object-size -fno-sanitize-recover=all
threads := -fsanitize=thread -DFASTRNN_STD_THREADS
FLAGS = -O1 -g1 $($*)

.PHONY: all memory threads core-memory core-threads
all: memory threads

memory threads: %: $(OUT)/%/driver
	@case $@ in memory) plants="output workspace";; threads) plants="race";; esac; for plant in $$plants; do \
	  if $< --plant $$plant >$(OUT)/$@/planted.log 2>&1; then \
	    echo "make sanitize: the planted $$plant was not found"; exit 1; fi; \
	  grep -m 1 -E "(ERROR|WARNING): (Address|Thread)Sanitizer" $(OUT)/$@/planted.log \
	    || { cat $(OUT)/$@/planted.log; exit 1; }; \
	done
	$< $(ARGS)

core-memory core-threads: core-%:
	@$(MAKE) --no-print-directory -s -j $(shell nproc) -f csrc/core.mk OUT=$(OUT)/$* CXXFLAGS="$(FLAGS)"

$(OUT)/%/driver: core-% tests/sanitize.cpp
	$(CXX) @csrc/flags $(FLAGS) -iquote csrc tests/sanitize.cpp $(OUT)/$*/libfastrnn_core.a -lgomp -o $@
