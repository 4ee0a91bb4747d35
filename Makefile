# `make` lists the targets. Everything runs in .venv/, which `make setup` makes and every target that needs it asks for.
VENV := .venv
PY := $(VENV)/bin/python
DEMO_DIR ?= runs/demo
PYTEST_ARGS ?=
# Of the published grids: densities such as "0.1 0.2", a seed or a number of seeds, a data set, and other flags of
# analysis.sweep, such as --where=slurm.
DENSITY ?=
SEED ?= 0
SEEDS ?=
DATA ?=
SWEEP_ARGS ?=

# Without PYTHON only Python 3.11 is taken, which the lock files are for; a PYTHON that is named may be newer.
CANDIDATES := $(or $(PYTHON),python3.11 python3 python)
ACCEPTED := $(if $(PYTHON),version_info >= (3, 11),version_info[:2] == (3, 11))

# What to install besides the project: names of requirements/*.lock. The environment remembers the last choice.
INSTALLED := $(shell cat $(VENV)/extras 2>/dev/null)
EXTRAS := $(or $(INSTALLED),cpu)
# The site needs packages of its own, whatever else was chosen.
override EXTRAS := $(strip $(EXTRAS) $(filter-out $(EXTRAS),$(filter docs,$(MAKECMDGOALS))))
LOCKS := $(EXTRAS:%=requirements/%.lock)
EMPTY :=
READY := $(VENV)/ready-$(subst $(EMPTY) ,-,$(strip $(EXTRAS)))
# What is compiled; where it cannot be, layers run dense. The environment remembers the attempt.
NATIVE := sparse_lib/execution/native
BUILT := $(VENV)/built
PIP := $(PY) -m pip --quiet --quiet --disable-pip-version-check --no-input
export PIP_ROOT_USER_ACTION := ignore

# What needs no training run and few compiled functions.
QUICK := \
  tests/analysis/claims tests/analysis/records/test_methods.py \
  tests/analysis/report/test_page.py tests/counting tests/test_batches.py tests/experiment/data/test_data.py \
  tests/experiment/runtime tests/experiment/storage/test_checkpoints.py tests/experiment/storage/test_files.py \
  tests/experiment/storage/test_gin_text.py \
  tests/experiment/storage/test_run_directory.py tests/landscape/test_barrier.py tests/landscape/test_directions.py \
  tests/landscape/test_paths.py tests/landscape/test_plane.py tests/landscape/test_surface.py \
  tests/test_architecture.py tests/test_distributions.py tests/test_masks.py tests/test_schedules.py \
  tests/test_selection.py tests/test_structures.py tests/test_updaters.py

TYPED := sparse_lib analysis train.py hessian.py interpolate.py

.DEFAULT_GOAL := help
.PHONY: help setup quick test test-slow lint docs demo bench lock clean
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-17s %s\n", $$1, $$2}'
	@echo "  make cifar10.erk.rigl DENSITY=0.2 SEED=0   a run of a published grid: NETWORK.DISTRIBUTION.METHOD or NETWORK.METHOD"

setup: $(READY) $(BUILT) ## make .venv/ from the lock file (EXTRAS=cuda, tpu, bench, docs, tracking or "cuda bench"; PYTHON=...)
	@echo "setup: $(VENV)/ is ready ($(EXTRAS))"

quick: $(READY) $(BUILT) ## run the tests of the core's arithmetic and of what reads and writes files: about a minute
	@$(PY) -m pytest -m "not slow" -n 2 --dist loadscope --no-loadscope-reorder $(QUICK) $(PYTEST_ARGS)

test: $(READY) $(BUILT) ## run the fast tests (PYTEST_ARGS=... goes to pytest)
	@$(PY) -m pytest -m "not slow" -n 2 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: $(READY) $(BUILT) ## run the slow tests
	@$(PY) -m pytest -m slow -n 2 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(READY) ## check style, format and types
	@status=0; \
	$(PY) -m ruff check . || status=1; \
	$(PY) -m ruff format --check . || status=1; \
	$(PY) -m mypy $(TYPED) || status=1; \
	exit $$status

# With --quiet a warning would be no error. The variable keeps the theme from announcing its successor.
docs: $(READY) ## build the documentation site into site/; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "docs: open site/index.html"

demo: $(READY) $(BUILT) ## prune, lottery, scratch and RigL on 5,000 images of MNIST, into DEMO_DIR (runs/demo)
	@$(PY) -m sparse_lib.experiment.jobs.demo --out=$(DEMO_DIR)

bench: $(READY) $(BUILT) ## measure speed (the peers too after `make setup EXTRAS=bench`)
	@$(PY) -m benchmarks.run

lock: $(READY) ## resolve requirements/*.in to requirements/*.lock anew
	@$(PY) requirements/lock.py

clean: ## remove .venv/, caches and build outputs; runs/ stays
	@rm -rf $(VENV) $(NATIVE)/*.so build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Runs of the published grids, by the file of the network, or the data set that it was published on. LeNet5 and the MLP
# have a folder of files, one for each method; the others take a network and a method.
NETWORK_cifar10 := wrn_22_2
NETWORK_cifar100 := resnet50_cifar100
NETWORK_imagenet := resnet50
NETWORK_mnist := lenet5
DATA_mnist := mnist
FOLDER_lenet5 := configs
FOLDER_mlp := mlp_configs
GRIDS := cifar10 cifar100 imagenet mnist $(basename $(notdir $(wildcard configs/networks/*.gin)))
DISTRIBUTIONS := uniform er erk
list_files = $(basename $(notdir $(wildcard $(1)/*.gin)))
list_methods = $(filter-out base hessian instability interpolate surface,$(call list_files,$(or $(FOLDER_$(1)),configs/methods)))
# These take their masks from a run or a score, or have none.
WITHOUT_DISTRIBUTION := dense small_dense prune prune_global prune_restart lottery lottery_rewind scratch scratch_plus \
  scratch_shuffled snip grasp synflow oneshot_magnitude oneshot_random set_from_prune rigl_from_prune nm imp imp_reinit wanda

# Arguments: the grid's name, the network, the distribution or nothing, the method.
check_grid = $(if $(filter $(4),$(call list_methods,$(2))),,$(error $(1) has no method $(4); it has $(call list_methods,$(2)))) \
  $(if $(filter-out $(DISTRIBUTIONS),$(3)),$(error there is no distribution $(3); there are $(DISTRIBUTIONS))) \
  $(if $(3),$(if $(filter $(4),$(WITHOUT_DISTRIBUTION)),$(error $(4) takes no distribution; write $(1).$(4))))
name_configs = $(if $(FOLDER_$(1)),$(FOLDER_$(1))/$(2).gin,configs/networks/$(1).gin,configs/methods/$(2).gin)
# ERK on ImageNet has no dense layers, as configs/networks/resnet50.gin says.
erk_is_sparse = $(if $(filter imagenet.erk resnet50.erk,$(1).$(2)), --gin_bindings="DENSE_LAYERS={}")
list_sparsities = $(shell for density in $(DENSITY); do awk "BEGIN {printf \"%s%.10g\", \"$$separator\", 1 - $$density}"; separator=,; done)
sweep_command = $(PY) -m analysis.sweep --gin_config=$(call name_configs,$(2),$(4))$(if \
  $(or $(DATA),$(DATA_$(1))), --gin_bindings="data.name='$(or $(DATA),$(DATA_$(1)))'")$(if \
  $(3), --gin_bindings="masks.distribution='$(3)'")$(call erk_is_sparse,$(1),$(3))$(if \
  $(DENSITY), --over SPARSITY=$(list_sparsities)) --seeds=$(or $(SEEDS),$(SEED)-$(SEED)) --out=runs/$(1)$(if $(3),.$(3)).$(4)$(if \
  $(SWEEP_ARGS), $(SWEEP_ARGS))
run_grid = $(call check_grid,$(1),$(2),$(3),$(4))$(call sweep_command,$(1),$(2),$(3),$(4))
split_stem = $(subst ., ,$(shell echo '$(1)' | tr A-Z a-z))
define make_rule
$(1).%: $$(READY) $$(BUILT)
	@$$(strip $$(call run_grid,$(1),$$(or $$(NETWORK_$(1)),$(1)),$$(if $$(word 2,$$(call split_stem,$$*)),$$(firstword $$(call split_stem,$$*))),$$(lastword $$(call split_stem,$$*))))
endef
$(foreach grid,$(GRIDS),$(eval $(call make_rule,$(grid))))

.DEFAULT:
	@$(if $(findstring .,$@),$(error $(firstword $(subst ., ,$@)) is no network of the grids; there are $(GRIDS)),$(error there is no target $@; make lists them))

# A stamp for each choice of EXTRAS, so that a second `make setup` has nothing to do.
$(READY): $(LOCKS) $(wildcard requirements/*.lock) pyproject.toml
	@case "$(INSTALLED):$(EXTRAS)" in \
	  :tpu|tpu:tpu) ;; \
	  *tpu*) echo "setup: tensorflow-tpu and tensorflow cannot share an environment; 'make clean', then EXTRAS=tpu alone" >&2; exit 1 ;; \
	esac
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  for python in $(CANDIDATES); do \
	    "$$python" -c 'import sys; sys.exit(not sys.$(ACCEPTED))' 2>/dev/null && break; python=; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "setup: Python 3.11 is needed and none of '$(CANDIDATES)' is it; install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; \
	  fi; \
	  echo "setup: making $(VENV)/ with $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV); \
	}
	@echo "setup: installing the pinned packages of $(LOCKS) (minutes, 3 GB)"
	@$(PIP) install $(LOCKS:%=-r %)
	@echo "setup: installing the project itself"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@echo "$(EXTRAS)" > $(VENV)/extras
	@touch $@

$(BUILT): $(wildcard $(NATIVE)/*.[ch]) $(NATIVE)/build.py | $(READY)
	@$(PY) $(NATIVE)/build.py --install-compiler
	@touch $@

requirements/%.lock:
	@echo "setup: there is no $@; EXTRAS takes $(basename $(notdir $(wildcard requirements/*.lock)))" >&2; exit 1
