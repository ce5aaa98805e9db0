# make help lists the targets. PYTHON chooses the interpreter that creates .venv.
# Variables count on the command line only: an environment may have a NAME of its own (WSL has).
$(foreach each,PYTHON TORCH ARGS NAME REPO HUB FULL NOTEBOOKS QUICK,\
  $(if $(findstring environment,$(origin $(each))),$(eval $(each) :=)))
python := $(or $(PYTHON),python3)
create = @command -v $(python) >/dev/null || { echo "course: $(python) was not found. Remedy: install Python 3.11 or newer" >&2; exit 1; }; $(python) tools/create_venv.py $(if $(TORCH),--torch $(TORCH))
BIN := .venv/bin
REST := browser or hub or node or slow

.DEFAULT_GOAL := help
.PHONY: help env env-tests lab offline present quick test test-all check notebooks pages slides site student links platforms binder classroom benchmarks lint node

help:  ## List the targets, and the markers of the tests
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo 'ARGS="-m MARKER" chooses tests:'; awk -F '"' '/^    "[a-z()]+: / {print "  " $$2}' pyproject.toml

env:  ## Create or update .venv (TORCH=cpu or TORCH=cuda; else CUDA where nvidia-smi answers)
	$(create)

env-tests:  ## The same, with what tests, slides and site need
	$(create) --tests

lab: env  ## Open the course in JupyterLab (ARGS="--no-browser" for a machine without a screen)
	@$(BIN)/python -m course_utils home && $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

offline: env  ## Pack the wheels for a class without a network into build/wheels
	$(create) --pack build/wheels

present: env-tests  ## Open a notebook as slides, with a kernel (NAME=flows)
	@$(BIN)/python -m tools.present $(NAME) $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

quick: env-tests  ## Test within a minute: neither kernels nor browsers
	@$(BIN)/python -m pytest -m "not ($(REST) or notebook or kernel)" tests course_utils $(ARGS)

test: env-tests  ## Test all that needs neither browser, Hub nor Node; run every notebook (ARGS="-k data")
	@$(BIN)/python -m pytest $(ARGS)

test-all: test node  ## Test all, then also in a browser, on a Hub, and the students' copies
	@$(BIN)/python -m pytest -m "$(REST)" tests $(ARGS)

check: env  ## Say whether this machine is ready for the course
	@$(BIN)/python -m course_utils

notebooks: env-tests  ## Build the notebooks; run only those whose code has changed (NAME=flows for one)
	@$(BIN)/python -m tools.build_notebooks $(NAME)
	@$(BIN)/python -m tools.fill_pages

pages: env-tests  ## Fill the generated parts of README, start page and guides
	@$(BIN)/python -m tools.fill_pages

slides: env-tests  ## Rebuild the slides (needs Node and Chromium)
	@$(BIN)/python -m slides.build_slides

site: env-tests  ## Build the web site in build/site (needs Node, once)
	@$(BIN)/python -m tools.build_site

student: env-tests  ## Write a version without solutions into build/student, and run it
	@$(BIN)/python -m tools.student_version

links: env-tests  ## Say where the course is published (REPO=owner/name, HUB=https://… for your JupyterHub)
	@[ -n "$(REPO)" ] || { echo "course: whose? Remedy: make links REPO=owner/name" >&2; exit 1; }
	@$(BIN)/python -m tools.launch_links $(if $(HUB),--hub "$(HUB)") -- "$(REPO)"
	@$(BIN)/python -m tools.build_notebooks

platforms: env-tests  ## Ask for each system and Python whether the tested versions have wheels (needs uv)
	@$(BIN)/python -m tools.platforms && $(BIN)/python -m tools.fill_pages

binder: env-tests  ## Build what Binder would build, without Docker, and measure it in build/binder
	@$(BIN)/python -m binder.rehearse

classroom: env-tests node  ## Rehearse a class of twenty students on a JupyterHub, and write what it takes
	@$(BIN)/python -m benchmarks.classroom $(ARGS)

benchmarks: env-tests  ## Measure the course beside its peers (FULL=1: all of MNIST too; NOTEBOOKS=1: each notebook once; QUICK=1: a trial)
	@[ build/baselines -nt benchmarks/baselines/requirements.txt ] || $(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/baselines --requirement benchmarks/baselines/requirements.txt
	@for each in bnn vae flows; do PYTHONPATH=build/baselines $(BIN)/python -m benchmarks.baselines.$$each $(QUICK:%=--size quick) || exit 1; done
	@[ -z "$(FULL)" ] || PYTHONPATH=build/baselines $(BIN)/python -m benchmarks.baselines.vae --size $(if $(QUICK),quick,full)
	@$(BIN)/python -m benchmarks.notebook_runtime $(NOTEBOOKS:%=--repetitions %) $(QUICK:%=--size quick)
	@$(BIN)/python -m tools.fill_pages

lint: env-tests  ## Check and format the sources
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

node:  ## Install what slides, site, spelling and Hub need from npm
	@npm ci --prefix tools --no-audit --no-fund --loglevel=error
