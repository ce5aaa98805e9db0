# make help lists the targets. PYTHON chooses the interpreter that creates .venv.
PYTHON ?= python3
TORCH ?=
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help env lab present test check notebooks slides site student links binder classroom benchmarks lint

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env:  ## Create or update .venv (TORCH=cpu for the build without CUDA)
	@command -v $(PYTHON) >/dev/null || { echo "course: $(PYTHON) was not found. Remedy: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) tools/environment.py $(if $(TORCH),--torch $(TORCH))

lab: env  ## Open JupyterLab in notebooks/ (ARGS="--no-browser" for a machine without a screen)
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

present: env  ## Open a notebook as slides, with a kernel (NAME=flows)
	@$(BIN)/python tools/present.py $(NAME) $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

test: env  ## Run every test (ARGS="-k data" for some of them)
	@$(BIN)/python -m pytest $(ARGS)

check: env  ## Say whether this machine is ready for the course
	@$(BIN)/python -m course_utils

notebooks: env  ## Rebuild the notebooks from their sources (NAME=flows for one)
	@$(BIN)/python tools/notebooks.py build $(NAME)

slides: env  ## Rebuild the slides (needs Node and Chromium)
	@$(BIN)/python slides/build.py

site: env  ## Build the web site in build/site (needs Node, once)
	@$(BIN)/python tools/website.py

student: env  ## Write a version without solutions into build/student, and run it
	@$(BIN)/python tools/student.py

links:  ## Write launch badges into README.md (REPO=owner/name, HUB=https://… for your JupyterHub)
	@[ -n "$(REPO)" ] || { echo "course: whose? Remedy: make links REPO=owner/name" >&2; exit 1; }
	@$(PYTHON) tools/links.py $(if $(HUB),--hub "$(HUB)") -- "$(REPO)"

binder: env  ## Build what Binder would build, without Docker, and measure it in build/binder
	@$(BIN)/python binder/rehearse.py

classroom: env  ## Rehearse a class of twenty students on a JupyterHub, and write what it takes
	@npm ci --prefix binder/jupyterhub --no-audit --no-fund --loglevel=error
	@$(BIN)/python benchmarks/classroom.py $(ARGS) && $(BIN)/python benchmarks/classes.py

benchmarks: env  ## Measure the course beside its peers (FULL=1: all of MNIST too; NOTEBOOKS=1: each notebook once; QUICK=1: a trial)
	@$(BIN)/python benchmarks/peers/install.py
	@for each in bnn vae flows; do build/peers/bin/python benchmarks/peers/$$each.py $(QUICK:%=--quick) || exit 1; done
	@[ -z "$(FULL)" ] || build/peers/bin/python benchmarks/peers/vae.py --full $(QUICK:%=--quick)
	@$(BIN)/python benchmarks/whole.py $(NOTEBOOKS:%=--repetitions %) $(QUICK:%=--quick)
	@$(BIN)/python benchmarks/report.py $(QUICK:%=--quick)

lint: env  ## Check and format the sources
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .
