# make quickstart   venv, install, and the whole method on this machine in minutes
# make test         venv, install, and all tests that CI runs
# make test-long    faults, scale and three seeds; the report's pages in a browser, if there are a Chromium and the
#                   packages of '.[browser]' in the venv (skipped otherwise)
# make test-gpu     kernels, losses, captures, engines, a student's training and the quickstart on one GPU, beside float64
#                   on the CPU; in a venv whose torch has CUDA (skipped where torch finds no GPU)
# make test-vllm    the vLLM engine beside the transformers engine, on a CPU, in a venv of its own (Linux, x86-64)
# make cluster-examples   examples/cluster, rendered again from its run.yaml
.PHONY: quickstart test test-long test-gpu test-vllm lint bench clean install cluster-examples

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

quickstart: $(STAMP)
	$(BIN)/stillhouse run examples/quickstart/stillhouse.yaml
	$(BIN)/stillhouse ask quickstart "medical : the clinic sees marsh fever with broken sleep in a child ; treatment : give"

test: $(STAMP)
	$(BIN)/python -m pytest -m "not long and not vllm" -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long --timeout 3600

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu --timeout 3600

test-vllm: .venv-vllm/.installed
	.venv-vllm/bin/python -m pytest -m vllm tests/workers/teacher/engines/test_vllm_engine.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check orchestrator workers cluster tests examples
	$(BIN)/mypy

bench: $(STAMP)
	cd tests/benchmarks && for script in *.py driving/*.py; do \
	  PYTHONPATH=../..:.. ../../$(BIN)/python -m $$(echo $${script%.py} | tr / .) || exit 1; done

install: $(STAMP)

# torch goes first, and pinned: a later one, pulled in by another package, would bring gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24' setuptools wheel
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

.venv-vllm/.installed: constraints.txt constraints-vllm.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --upgrade 'pip>=24' 'setuptools==78.1.1' wheel
	.venv-vllm/bin/python -m pip install --quiet -c constraints.txt torch
	.venv-vllm/bin/python -m pip install --quiet --no-deps -r constraints-vllm.txt
	touch $@

# Unplanned: the bucket of the example is not there.
RENDER := cd examples/cluster && ../../$(BIN)/stillhouse cluster render --unplanned --force
cluster-examples: $(STAMP)
	$(RENDER) kuberay run.yaml --nodes teacher=h100:8,student=l40s:2
	$(RENDER) aws run.yaml --nodes teacher=h100:8,student=l40s:4
	$(RENDER) gcp run.yaml --nodes teacher=h100:8,student=a100-40:2
	$(RENDER) skypilot run.yaml --nodes h100:8

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
