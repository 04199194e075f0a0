# The sources in a folder of their own, $(COPY), so that what is built there takes the place of nothing here.

SOURCES := $(filter-out build dist runs %.egg-info,$(wildcard *)) .clang-format

# Times of change are copied too, so that nothing is installed or compiled twice. A source that is gone here goes there.
.PHONY: copy
copy:
	@mkdir -p $(COPY)
	@find $(COPY) -name .venv -prune -o \( -name '*.py' -o -name '*.h' -o -name '*.cpp' \) -exec rm {} +
	@tar -c --exclude='*.so' --exclude=__pycache__ $(SOURCES) | tar -x -C $(COPY)
