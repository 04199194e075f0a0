# libfastrnn, the library for programs without Python: library/, and of kernels/ and runtime/ what inference needs.
#
#   make -f csrc/library.mk OUT=build/library
#   make -f csrc/library.mk OUT=build/library install PREFIX=/usr/local
#   make -f csrc/library.mk OUT=build/arm-library CXX=aarch64-linux-gnu-g++
#
# Each compiler and each set of flags needs a folder of its own.

CSRC := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
OUT ?= build/library
PREFIX ?= /usr/local
CXXFLAGS ?=
# Those of the compiler, which another machine's objects need.
AR = $(shell $(CXX) -print-prog-name=ar)
STRIP = $(shell $(CXX) -print-prog-name=strip)

FLAGS := $(shell cat $(CSRC)/flags) -DFASTRNN_INFERENCE -fPIC -fvisibility=hidden -ffunction-sections -fdata-sections
KERNELS := $(filter-out %/isa_software_tiles.cpp,$(wildcard $(CSRC)/kernels/*.cpp))
RUNTIME := $(addprefix $(CSRC)/runtime/,amx.cpp isa.cpp layer.cpp)
SOURCES := $(KERNELS) $(RUNTIME) $(wildcard $(CSRC)/library/*.cpp)
OBJECTS := $(SOURCES:$(CSRC)/%.cpp=$(OUT)/%.o)

VERSION := $(shell sed -n 's/^\#define FASTRNN_VERSION "\(.*\)"/\1/p' $(CSRC)/library/fastrnn.h)
SONAME := libfastrnn.so.$(firstword $(subst ., ,$(VERSION)))
STATIC := $(OUT)/libfastrnn.a
SHARED := $(OUT)/libfastrnn.so.$(VERSION)

.PHONY: all install
all: $(STATIC) $(SHARED)

$(STATIC): $(OBJECTS)
	rm -f $@
	$(AR) rcs $@ $^

# It brings what it needs of the C++ library, and shows none of it.
$(SHARED): $(OBJECTS) $(CSRC)/library/exports.map
	$(CXX) -shared $(CXXFLAGS) -static-libstdc++ -static-libgcc -Wl,-soname,$(SONAME) -Wl,--gc-sections \
	  -Wl,--version-script=$(CSRC)/library/exports.map $(OBJECTS) -o $@
	ln -sf $(@F) $(OUT)/$(SONAME)
	ln -sf $(@F) $(OUT)/libfastrnn.so

$(OUT)/%.o: $(CSRC)/%.cpp $(CSRC)/flags
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(CXXFLAGS) -iquote $(CSRC) -MMD -MP -c $< -o $@

install: all
	install -d $(PREFIX)/include $(PREFIX)/lib/pkgconfig $(PREFIX)/lib/cmake/fastrnn
	install -m 644 $(CSRC)/library/fastrnn.h $(PREFIX)/include
	install -m 644 $(STATIC) $(PREFIX)/lib
	install -m 755 $(SHARED) $(PREFIX)/lib
	$(STRIP) $(PREFIX)/lib/$(notdir $(SHARED))
	$(STRIP) --strip-debug $(PREFIX)/lib/$(notdir $(STATIC))
	ln -sf $(notdir $(SHARED)) $(PREFIX)/lib/$(SONAME)
	ln -sf $(notdir $(SHARED)) $(PREFIX)/lib/libfastrnn.so
	sed 's/@VERSION@/$(VERSION)/' $(CSRC)/library/fastrnn.pc >$(PREFIX)/lib/pkgconfig/fastrnn.pc
	sed 's/@VERSION@/$(VERSION)/' $(CSRC)/library/fastrnn-config.cmake >$(PREFIX)/lib/cmake/fastrnn/fastrnn-config.cmake
	sed 's/@VERSION@/$(VERSION)/' $(CSRC)/library/fastrnn-config-version.cmake \
	  >$(PREFIX)/lib/cmake/fastrnn/fastrnn-config-version.cmake

-include $(OBJECTS:.o=.d)
