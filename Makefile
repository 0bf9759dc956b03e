# Every target sets up all that it needs and redoes nothing that is done.
#   make demo     train, test and predict on the built-in data set
#   make test     the tests of every change, in under 12 minutes on two cores
#   make test-all also every published variant, every config's step, and the compiler
#   make coverage the same, and which lines of the package nothing runs (at most 5 %)
#   make accept   a short training of every family and task
#   make fuzz     2,000 drawn sizes, batches and options of each family (EXAMPLES=2000)
#   make lint     ruff: lint and format; bandit; and the site, warnings are errors
#   make docs     the site, into docs/_build/html
#   make install  only the set-up
# STACK=onedl (default) or STACK=openmmlab chooses the distribution of the OpenMMLab packages.

STACK ?= onedl
EXAMPLES ?= 2000
PYTHON ?= python3
SHELL := /bin/bash

ifeq ($(STACK),onedl)
VENV := .venv
MMCV := onedl-mmcv
else ifeq ($(STACK),openmmlab)
VENV := .venv-openmmlab
MMCV := mmcv
else
$(error STACK=$(STACK) is unknown: use STACK=onedl or STACK=openmmlab)
endif

CONSTRAINTS := constraints/$(STACK).txt
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --constraint $(CONSTRAINTS)
# one more than the cores, since tests of command lines wait for their processes
WORKERS := $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n < 3 ? n + 1 : 4 )))
PYTEST := $(RUN) -m pytest -n $(WORKERS) --dist worksteal
DEMO := configs/retinanet_rest_lite_shapes.py
DEMO_DIR := work_dirs/retinanet_rest_lite_shapes

.PHONY: help install demo test test-all coverage accept fuzz lint docs docs-links
.DELETE_ON_ERROR:

help:
	@sed -n '2,11s/^# \{0,1\}//p' Makefile

install: $(VENV)/.mmrest

demo: install
	$(RUN) tools/train.py $(DEMO) --work-dir $(DEMO_DIR)
	$(RUN) tools/test.py $(DEMO) "$$(cat $(DEMO_DIR)/last_checkpoint)" --work-dir $(DEMO_DIR)/test
	$(RUN) tools/predict.py $(DEMO) "$$(cat $(DEMO_DIR)/last_checkpoint)" \
		data/shapes/val2017/00000000000[1-8].jpg --out-dir $(DEMO_DIR)/predictions --score-thr 0.4 --force

test: install
	$(PYTEST) -m 'not slow and not accept'

test-all: install
	$(PYTEST) -m 'not accept and not alone'
	$(RUN) -m pytest -m alone

coverage: install $(VENV)/.coverage
	$(RUN) -m coverage erase
	$(RUN) -m coverage run -m pytest -n $(WORKERS) --dist worksteal -m 'not accept and not alone'
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

accept: install
	$(PYTEST) -m accept

fuzz: install
	MMREST_FUZZ_EXAMPLES=$$(( $(EXAMPLES) / 2 )) $(PYTEST) tests/fuzz

lint: $(VENV)/.lint docs
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m bandit --quiet --recursive --severity-level medium mmrest tools

docs: $(VENV)/.docs
	$(RUN) -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html

# asks every link of the pages, so it needs the internet
docs-links: $(VENV)/.docs
	$(RUN) -m sphinx --quiet -b linkcheck docs docs/_build/links

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo 'mmrest needs Python >= 3.10; choose one: make PYTHON=python3.11 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.lint: $(VENV)/.python $(CONSTRAINTS)
	$(PIP) bandit ruff
	@touch $@

$(VENV)/.coverage: $(VENV)/.python $(CONSTRAINTS)
	$(PIP) coverage
	@touch $@

$(VENV)/.docs: $(VENV)/.mmrest
	$(PIP) --config-settings editable_mode=compat --editable '.[docs]'
	@touch $@

$(VENV)/.torch: $(VENV)/.python $(CONSTRAINTS)
	$(PIP) torch numpy setuptools wheel ninja
	@touch $@

# (compat below: a folder of the same name in the working directory does not hide the package.)
# mmcv compiles its operators only where its build sees torch, hence no build isolation. A wheel
# that was cached without operators, or for another torch, is built again.
$(VENV)/.mmcv: $(VENV)/.torch
	@echo 'compiling $(MMCV) against torch, unless a wheel of it is cached: 6 to 20 minutes on 2 cores'
	MMCV_WITH_OPS=1 $(PIP) --no-build-isolation $(MMCV)
	@$(RUN) -c 'import torch, mmcv._ext' || { set -x; MMCV_WITH_OPS=1 $(PIP) --no-build-isolation \
		--no-deps --force-reinstall --no-cache-dir --no-binary $(MMCV) $(MMCV); }
	$(RUN) -c 'import torch, mmcv._ext'
	@touch $@

$(VENV)/.mmrest: $(VENV)/.mmcv pyproject.toml
	$(PIP) --config-settings editable_mode=compat --editable '.[$(STACK),dev]'
	@touch $@
