# A target of the Makefile with torch $(TORCH) in place of the one in requirements-dev.txt, and Triton $(TRITON), or the
# one that this release of torch asks for.

COPY := .torch-$(notdir $(TORCH))
# torch 2.11 takes no setuptools of today.
CHANGES := s/^torch==.*/torch==$(TORCH)/; s/^triton==.*/triton$(TRITON:%===%)/; s/^setuptools==.*/setuptools>=77/

.PHONY: demo compare test fuzz wheel arm bench lint clean
.DEFAULT_GOAL := test

demo compare test fuzz wheel arm bench lint clean: copy
	@sed '$(CHANGES)' requirements-dev.txt > $(COPY)/requirements-dev.txt
	@touch -r requirements-dev.txt $(COPY)/requirements-dev.txt
	@$(MAKE) --no-print-directory -C $(COPY) $@ TORCH=

include tests/copy.mk
