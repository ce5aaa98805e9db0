# make help lists the targets. PYTHON chooses the interpreter that creates .venv.
PYTHON ?= python3
TORCH ?=
ARGS ?=
BIN := .venv/bin
REST := browser or hub or node or slow

.DEFAULT_GOAL := help
.PHONY: help env lab present quick test test-all check notebooks pages slides site student links binder classroom benchmarks lint node

help:  ## List the targets, and the markers of the tests
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo 'ARGS="-m MARKER" chooses tests:'; awk -F '"' '/^    "[a-z()]+: / {print "  " $$2}' pyproject.toml

env:  ## Create or update .venv (TORCH=cpu for the build without CUDA)
	@command -v $(PYTHON) >/dev/null || { echo "course: $(PYTHON) was not found. Remedy: install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) tools/create_venv.py $(if $(TORCH),--torch $(TORCH))

lab: env  ## Open JupyterLab in notebooks/ (ARGS="--no-browser" for a machine without a screen)
	@$(BIN)/jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

present: env  ## Open a notebook as slides, with a kernel (NAME=flows)
	@$(BIN)/python -m tools.present $(NAME) $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

quick: env  ## Test within a minute: neither kernels nor browsers
	@$(BIN)/python -m pytest -m "not ($(REST) or notebook or kernel)" tests course_utils $(ARGS)

test: env  ## Test all that needs neither browser, Hub nor Node; run every notebook (ARGS="-k data")
	@$(BIN)/python -m pytest $(ARGS)

test-all: test node  ## Test all, then also in a browser, on a Hub, and the students' copies
	@$(BIN)/python -m pytest -m "$(REST)" tests $(ARGS)

check: env  ## Say whether this machine is ready for the course
	@$(BIN)/python -m course_utils

notebooks: env  ## Build the notebooks; run only those whose code has changed (NAME=flows for one)
	@$(BIN)/python -m tools.build_notebooks $(NAME)
	@$(BIN)/python -m tools.fill_pages

pages: env  ## Fill the generated parts of README, start page and guides
	@$(BIN)/python -m tools.fill_pages

slides: env  ## Rebuild the slides (needs Node and Chromium)
	@$(BIN)/python -m slides.build_slides

site: env  ## Build the web site in build/site (needs Node, once)
	@$(BIN)/python -m tools.build_site

student: env  ## Write a version without solutions into build/student, and run it
	@$(BIN)/python -m tools.student_version

links: env  ## Write launch badges into README.md (REPO=owner/name, HUB=https://… for your JupyterHub)
	@[ -n "$(REPO)" ] || { echo "course: whose? Remedy: make links REPO=owner/name" >&2; exit 1; }
	@$(BIN)/python -m tools.launch_links $(if $(HUB),--hub "$(HUB)") -- "$(REPO)"

binder: env  ## Build what Binder would build, without Docker, and measure it in build/binder
	@$(BIN)/python -m binder.rehearse

classroom: env node  ## Rehearse a class of twenty students on a JupyterHub, and write what it takes
	@$(BIN)/python -m benchmarks.classroom $(ARGS)

benchmarks: env  ## Measure the course beside its peers (FULL=1: all of MNIST too; NOTEBOOKS=1: each notebook once; QUICK=1: a trial)
	@[ build/baselines -nt benchmarks/baselines/requirements.txt ] || $(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/baselines --requirement benchmarks/baselines/requirements.txt
	@for each in bnn vae flows; do PYTHONPATH=build/baselines $(BIN)/python -m benchmarks.baselines.$$each $(QUICK:%=--size quick) || exit 1; done
	@[ -z "$(FULL)" ] || PYTHONPATH=build/baselines $(BIN)/python -m benchmarks.baselines.vae --size $(if $(QUICK),quick,full)
	@$(BIN)/python -m benchmarks.notebook_runtime $(NOTEBOOKS:%=--repetitions %) $(QUICK:%=--size quick)
	@$(BIN)/python -m tools.fill_pages

lint: env  ## Check and format the sources
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

node:  ## Install what slides, site, spelling and Hub need from npm
	@npm ci --prefix tools --no-audit --no-fund --loglevel=error
