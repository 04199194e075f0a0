# A target of the Makefile with torch $(TORCH), and the Triton and setuptools that this release of it asks for, in place
# of those in requirements-dev.txt.

COPY := .torch-$(TORCH)
SOURCES := $(filter-out build dist runs %.egg-info,$(wildcard *)) .clang-format
CHANGES := s/^torch==.*/torch==$(TORCH)/; s/^setuptools==.*/setuptools>=77/; /^triton==/d

.PHONY: demo compare test fuzz arm bench clean

# Times of change are copied with the files, so that nothing is installed or compiled twice. What has gone here goes there.
demo compare test fuzz arm bench clean:
	@mkdir -p $(COPY)
	@find $(COPY) -name .venv -prune -o -name build -prune -o -type f ! -name '*.so' -exec rm {} +
	@tar -c --exclude='*.so' --exclude=__pycache__ $(SOURCES) | tar -x -C $(COPY)
	@sed '$(CHANGES)' requirements-dev.txt > $(COPY)/requirements-dev.txt
	@touch -r requirements-dev.txt $(COPY)/requirements-dev.txt
	@$(MAKE) --no-print-directory -C $(COPY) $@ TORCH=
