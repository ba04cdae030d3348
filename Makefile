# Every target but `help`, `gpu` and `clean` uses the active environment if this project is installed in it, else makes .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help repro smoke budgets external downstream export plan status gpu gpu-shards report power accept bench check test test-all faults audit golden lint format notebooks ui track environment clean lock FORCE

PORT ?= 5000
export MLFLOW_DISABLE_TELEMETRY := true
# Memory comes in large pages and stays with the process: a training step asks for the same tensors as the step before.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824

TOOLS_repro := torch mlflow dvc
TOOLS_test := $(TOOLS_repro) pytest xdist ruff mypy
installed = cd / && python -c 'import sys, pathlib, importlib.util as u; found = u.find_spec("lolm"); \
  here = found and pathlib.Path(found.origin).resolve().parents[1] == pathlib.Path(sys.argv[1]).resolve(); \
  sys.exit(not here or not all(map(u.find_spec, sys.argv[2:])))' "$(CURDIR)"

ACTIVE := $(shell [ -n "$${VIRTUAL_ENV:-}$${CONDA_PREFIX:-}" ] && { $(installed) $(TOOLS_repro); } 2>/dev/null && command -v python)
ifneq ($(ACTIVE),)
python := $(ACTIVE)
ready := active
else
python := $(CURDIR)/.venv/bin/python
ready := .venv/ready
endif

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: SCALE= STUDY=<of params.yaml> JOBS=<runs at a time> LAUNCHER=slurm <runs on a cluster> FORCE=1 <all again>"
	@echo "           WHY=<what make accept accepts> PORT=<of the UI> ARGS=<more for plan, gpu, bench, audit and tests>"
	@echo "           PYTHON=<interpreter to build .venv with> TORCH_INDEX=<extra package index, for example of PyTorch's CPU builds>"

chosen = $(if $(SCALE),--scale "$(SCALE)") $(if $(STUDY),--study "$(STUDY)")
where = $(if $(JOBS),--jobs "$(JOBS)") $(if $(LAUNCHER),--launcher "$(LAUNCHER)")
alone = LOLM_JOBS="$(JOBS)" LOLM_FORCE="$(FORCE)"  # of a stage that runs by itself
force = $(if $(filter-out 0,$(FORCE)),--force)
run = "$(python)" -m pipeline.run $(where) $(force)
pytest = "$(python)" -m pytest --numprocesses logical --maxprocesses 8 --dist loadscope --no-loadscope-reorder
quiet = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 MPLBACKEND=agg

repro: $(ready) ## everything at the scale and study of params.yaml, report included
	@$(run) $(chosen)

smoke: $(ready) ## the whole pipeline at scale smoke; params.yaml stays as it is
	@$(run) --scale smoke --study "$(or $(STUDY),smoke)"

budgets: $(ready) ## the study over sizes and budgets, some 7 hours on two cores, and its laws; the same command goes on
	@"$(python)" -m pipeline.budgets --run $(where) $(force)

external: $(ready) ## a public model in the laboratory of layers: NAME=<under external in params.yaml>
	@"$(python)" -m pipeline.external --name "$(NAME)" $(if $(SCALE),--scale "$(SCALE)")

downstream: $(ready) ## scores on downstream tasks, `downstream` in params.yaml, of every run of a study; takes the extra `eval`
	@$(alone) LOLM_LAUNCHER="$(or $(LAUNCHER),local)" "$(python)" -m pipeline.downstream $(chosen)
	@"$(python)" -m pipeline.track

export: $(ready) ## every run of a study for the transformers library, into artifacts/<scale>/exports; takes the extra `external`
	@$(alone) "$(python)" -m pipeline.export $(chosen)

plan: $(ready) ## sizes, memory, hours and disk of a study, before anything runs; GPU=H100 refuses what does not fit there
	@"$(python)" -m pipeline.plan $(chosen) $(if $(GPU),--gpu "$(GPU)") $(ARGS)

status: $(ready) ## which runs of a study are made, running and left, and how long the rest takes
	@$(if $(JOBS),LOLM_JOBS="$(JOBS)") "$(python)" -m pipeline.status $(chosen)

gpu: ## the published comparisons on one GPU, in steps that fit ten minutes; needs no DVC and no MLflow (docs/scale.md); ARGS=<of pipeline.gpu>
	@python="$(python)"; [ -x "$$python" ] || python="$(or $(PYTHON),python3)"; "$$python" -m pipeline.gpu $(ARGS)

gpu-shards: $(ready) ## prepare what `make gpu` reads: tokenizer and shards, from the text in texts/ into carried/
	@"$(python)" -m pipeline.gpu --prepare $(ARGS)

report: $(ready) ## every committed page again from the records in reports/, without training
	@"$(python)" -m pipeline.budgets
	@"$(python)" -m pipeline.report $(chosen)
	@"$(python)" -m pipeline.front $(if $(SCALE),--scale "$(SCALE)") --readme
	@"$(python)" -m pipeline.cards

power: $(ready) ## how many seeds each claim would need, by the variance of the committed runs
	@"$(python)" -m pipeline.power $(chosen)

accept: $(ready) tools ## after a refactor: if the goldens hold, results that exist count as made by the present code
	@"$(python)" -m pipeline.accept $(if $(WHY),--why "$(WHY)")

bench: $(ready) ## speed on this machine, against its peak and other packages; ARGS=<of benchmarks>
	@HF_HUB_OFFLINE=1 "$(python)" -m benchmarks $(ARGS)

check: lint ## style, types, quick tests, a minute on two cores
	@$(quiet) $(pytest) -m "not slow and not system" $(ARGS)

test: $(ready) tools ## all tests but those of whole systems, six minutes on two cores
	@$(quiet) $(pytest) -m "not system and not faults" $(ARGS)

test-all: $(ready) tools ## and studies under DVC and Slurm, processes that are killed, compilers, servers: what CI runs, nine minutes
	@$(quiet) $(pytest) -m "not faults" $(ARGS)

faults: $(ready) tools ## kills, failing writes, damaged and invented files, some 15 minutes; its table goes into docs/reliability.md
	@rm -rf .scratch/faults
	@LOLM_FAULTS=$(or $(LOLM_FAULTS),1) $(quiet) $(pytest) -m faults $(ARGS) tests/faults
	@"$(python)" tests/faults/table.py

audit: $(ready) ## check pinned packages against a public list of known faults (extra `audit`); ADVISORIES=folder reads a copy
ifdef ADVISORIES
	@"$(python)" -m pipeline.audit "$(ADVISORIES)" $(ARGS)
else
	@"$(python)" -m pip_audit --version >/dev/null 2>&1 || \
	  { echo "error: pip-audit is missing; pip install -c constraints.txt -e '.[audit]'" >&2; exit 2; }
	@"$(python)" -m pip_audit --requirement requirements.lock --require-hashes --disable-pip --strict --progress-spinner off $(ARGS) || \
	  { echo "error: the audit failed: either a package above has a known fault, or its list was out of reach (no network?)" >&2; exit 2; }
endif

golden: $(ready) tools ## compare losses, gradients, measures of every family and what stages make with the committed values
	@$(quiet) "$(python)" -m pytest tests/golden $(ARGS)

lint: $(ready) tools ## style and types
	@"$(python)" -m ruff check . && "$(python)" -m ruff format --check . && "$(python)" -m mypy

format: $(ready) tools ## rewrite the source in the project's style
	@"$(python)" -m ruff check --fix . && "$(python)" -m ruff format .

notebooks: $(ready) tools ## execute the notebooks again, in their places
	@env -u MPLBACKEND PYTHONPATH="$(CURDIR)" "$(python)" -c 'import sys, nbclient, nbformat; [nbformat.write( \
	  nbclient.execute(nbformat.read(path, 4), cwd="notebooks", timeout=None, record_timing=False), path) for path in sys.argv[1:]]' \
	  notebooks/*.ipynb

ui: $(ready) ## the MLflow UI on the local store; prints the address of a study's charts
	@"$(python)" -m pipeline.ui $(chosen) --port "$(PORT)" || [ $$? -eq 130 ]

track: $(ready) ## fill MLflow from the records on disk
	@"$(python)" -m pipeline.track $(if $(SCALE),--scale "$(SCALE)")

lock: $(ready) ## requirements.lock again: every package that constraints.txt pins, with the hashes of its files
	@"$(python)" -m uv pip compile pyproject.toml --extra test -c constraints.txt --universal --python-version 3.11 --quiet \
	  --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock

environment: $(ready) ## only make the environment
	@echo "using $(python)"

clean: ## remove caches, logs and the checkpoints of unfinished runs; results and .venv stay
	@rm -rf .scratch .pytest_cache .ruff_cache .mypy_cache .hypothesis build
	@find lolm pipeline tests -name __pycache__ -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------- environment

.PHONY: active tools
active:

# The test extra may be missing from an environment that the user made for the pipeline alone.
tools: $(ready)
ifneq ($(ACTIVE),)
	@( $(installed) $(TOOLS_test) ) || { echo "the active environment has no test tools; pip install -c constraints.txt -e '.[test]'" >&2; exit 2; }
endif

# Rebuilt only when what it was built from has changed: the requirements, or the folder's place.
.venv/ready: FORCE
	@set -eu; want=$$({ echo "$(CURDIR)"; cat pyproject.toml constraints.txt; } | cksum); \
	if [ "$$(cat $@ 2>/dev/null || true)" = "$$want" ] && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi; \
	if ! .venv/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
	  base=; for candidate in $(PYTHON) python3.11 python3.12 python3 python; do \
	    if "$$candidate" -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then \
	      base=$$candidate; break; fi; done; \
	  if [ -z "$$base" ]; then \
	    echo "no Python 3.11 or 3.12 with venv found; install one (Debian: python3-venv as well), or name it: make PYTHON=/path/to/python" >&2; \
	    exit 2; fi; \
	  echo "making .venv with $$("$$base" --version)"; rm -rf .venv; "$$base" -m venv .venv; \
	fi; \
	uv=$$(command -v uv || true); \
	if [ -z "$$uv" ] && .venv/bin/python -m pip install --quiet uv 2>/dev/null; then uv=.venv/bin/uv; fi; \
	links=$${UV_FIND_LINKS:-$${PIP_FIND_LINKS:-}}; if [ -n "$$links" ]; then export UV_FIND_LINKS=$${links// /,}; fi; \
	if [ -n "$${PIP_CERT:-}" ]; then export SSL_CERT_FILE=$${SSL_CERT_FILE:-$$PIP_CERT}; fi; \
	extra=$(if $(TORCH_INDEX),"--extra-index-url $(TORCH_INDEX)"); what="-c constraints.txt -e .[test]"; \
	echo "installing the pinned packages"; \
	if [ -n "$$uv" ] && "$$uv" pip install --quiet --python .venv/bin/python --index-strategy unsafe-best-match \
	    $${PIP_INDEX_URL:+--default-index "$$PIP_INDEX_URL"} $${PIP_EXTRA_INDEX_URL:+--extra-index-url "$$PIP_EXTRA_INDEX_URL"} \
	    $$extra $$what; then :; \
	else .venv/bin/python -m pip install --quiet $$extra $$what; fi; \
	echo "$$want" > $@
FORCE:
