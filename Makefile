# make demo   installs into .venv and serves the embedded default at 127.0.0.1:8000
# make test   the same environment; lint, type check, all tests

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Asked only where pip's own configuration does not find the CPU build of torch.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PIP := $(BIN)/pip --disable-pip-version-check --quiet
LOCKED := install --no-deps --require-hashes

.PHONY: demo test check install lock clean

demo: install
	@$(BIN)/tierserve --config configs/lab.yaml

test: check
	$(BIN)/pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed

# The stamp is written last: an install that was interrupted is taken up again.
$(VENV)/installed: pyproject.toml .ci/torch.txt .ci/cpu.txt
	@command -v $(PYTHON) >/dev/null || { echo "tierserve needs Python 3.11: install it, or name yours: make PYTHON=..."; exit 1; }
	@ldconfig -p 2>/dev/null | grep -q libnuma.so.1 || echo "note: vLLM on a CPU needs libnuma (Debian: libnuma1)"
	@echo "installing into $(VENV) (about 1 GB to fetch, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "  torch, CPU build (half a minute; if it is broken off, run the command again)"
	@$(PIP) $(LOCKED) -r .ci/torch.txt 2>/dev/null || $(PIP) $(LOCKED) --index-url $(TORCH_INDEX) -r .ci/torch.txt
	@echo "  vLLM and the rest (two minutes)"
	@$(PIP) $(LOCKED) -r .ci/cpu.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

lock:
	.ci/lock

clean:
	rm -rf $(VENV) build *.egg-info
