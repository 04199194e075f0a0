# A target of the Makefile with torch $(TORCH) in place of the one in requirements-dev.txt, and Triton $(TRITON), or the
# one that this release of torch asks for.

COPY := .torch-$(notdir $(TORCH))
SOURCES := $(filter-out build dist runs %.egg-info,$(wildcard *)) .clang-format
# torch 2.11 takes no setuptools of today.
CHANGES := s/^torch==.*/torch==$(TORCH)/; s/^triton==.*/triton$(TRITON:%===%)/; s/^setuptools==.*/setuptools>=77/

.PHONY: demo compare test fuzz arm bench lint clean
.DEFAULT_GOAL := test

# Times of change are copied too, so that nothing is installed or compiled twice. A source that is gone here goes there.
demo compare test fuzz arm bench lint clean:
	@mkdir -p $(COPY)
	@find $(COPY) -name .venv -prune -o \( -name '*.py' -o -name '*.h' -o -name '*.cpp' \) -exec rm {} +
	@tar -c --exclude='*.so' --exclude=__pycache__ $(SOURCES) | tar -x -C $(COPY)
	@sed '$(CHANGES)' requirements-dev.txt > $(COPY)/requirements-dev.txt
	@touch -r requirements-dev.txt $(COPY)/requirements-dev.txt
	@$(MAKE) --no-print-directory -C $(COPY) $@ TORCH=
