# The library of the CPU kernels, kernels/ and runtime/ without torch and Python:
#
#   make -f csrc/core.mk OUT=build/arm CXX=aarch64-linux-gnu-g++
#   make -f csrc/core.mk OUT=build/checked CXXFLAGS=-fsanitize=address,undefined
#
# A program beside it is compiled with the same flags, @csrc/flags, and -iquote csrc, and linked with an OpenMP run-time
# behind the library, -lgomp or, with LLVM's, -lomp. Each compiler and each set of flags needs a folder of its own.

CSRC := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
OUT ?= build/core
CXXFLAGS ?=
# That of the compiler, which another machine's objects need.
AR = $(shell $(CXX) -print-prog-name=ar)

FLAGS := $(shell cat $(CSRC)/flags)
SOURCES := $(wildcard $(CSRC)/kernels/*.cpp $(CSRC)/runtime/*.cpp)
OBJECTS := $(SOURCES:$(CSRC)/%.cpp=$(OUT)/%.o)
LIBRARY := $(OUT)/libfastrnn_core.a

$(LIBRARY): $(OBJECTS)
	rm -f $@
	$(AR) rcs $@ $^

$(OUT)/%.o: $(CSRC)/%.cpp $(CSRC)/flags
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(CXXFLAGS) -iquote $(CSRC) -MMD -MP -c $< -o $@

-include $(OBJECTS:.o=.d)
