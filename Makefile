# Two commands: `make demo` and `make test`. Both create .venv, install the tested versions and build the C++ core.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test nightly format messages clean bench-tokenizer bench-corpus bench-train bench-post bench-gpu

demo: $(STAMP)
	$(BIN)/hanlin run demo --out runs/demo

test: $(STAMP)
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check --quiet src tests benchmarks tools
	$(BIN)/pyright --pythonpath $(BIN)/python src
	$(BIN)/python -m pytest tests

$(STAMP): pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*.cpp native/*.hpp native/*.inc)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Hanlin needs Python 3.10 or newer; 需要 Python 3.10 或更新的版本")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt scikit-build-core nanobind cmake ninja
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[serve,export,test]'
	touch $(STAMP)

# Against the fastest peers, on the same text; FILES names it.
FILES ?= $(wildcard ../shared/data/pretrain_zh/*.jsonl.zst)
bench-tokenizer: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt tokenizers gigabpe tiktoken fastokens
	$(BIN)/python benchmarks/tokenizer.py $(FILES)

# Cleaning against its targets, on sources in Chinese, deduplication against peers, the preset zh-web against a reader's labels.
CHINESE = $(filter-out %/code_python.jsonl.zst %/en_articles.jsonl.zst,$(FILES))
bench-corpus: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt datatrove rensa xxhash
	status=0; for script in corpus dedup; do $(BIN)/python benchmarks/$$script.py $(CHINESE) || status=1; done; \
	$(BIN)/python benchmarks/cleaning.py || status=1; exit $$status

# Training against its peers: speed and memory step by step, the plan against what follows, recipes at equal seconds (half an hour).
bench-train: $(STAMP)
	status=0; $(BIN)/python benchmarks/train.py --data $(CHINESE) || status=1; $(BIN)/python benchmarks/plan.py || status=1; \
	$(BIN)/python benchmarks/recipes.py $(CHINESE) || status=1; exit $$status

# TRL, PEFT and bitsandbytes in an environment of their own: what post-training is compared with, and what goldens come from.
ORACLES := .venv-oracles
$(ORACLES)/.installed: constraints.txt
	test -x $(ORACLES)/bin/python || $(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(ORACLES)/bin/python -m pip install --quiet --disable-pip-version-check trl peft bitsandbytes datasets
	touch $@

# Post-training against its peers on real rows: speed and memory of SFT, DPO, reward models, LoRA, QLoRA (half an hour).
PREFERENCES ?= $(wildcard ../shared/data/preference_zh.jsonl.zst)
bench-post: $(STAMP) $(ORACLES)/.installed
	$(BIN)/python benchmarks/post.py --peers $(ORACLES)/bin/python --sft $(CONVERSATIONS) --pairs $(PREFERENCES)

# On one accelerator: speed beside peers, memory, the seed's headline, zh-26m; about half an hour. `make bench-gpu PARTS=speed` runs one.
# Without an accelerator: `make bench-gpu GPU="--dry-run"` goes through it in small and judges nothing.
PARTS ?= speed,attention,memory,headline,zh26m
CONVERSATIONS ?= $(wildcard ../shared/data/sft_zh.jsonl.zst)
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py --parts $(PARTS) --data $(CHINESE) $(if $(CONVERSATIONS),--sft $(CONVERSATIONS)) $(GPU)

# Everything, also what is marked nightly: about an hour. The real data is looked for beside the checkout.
nightly: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt datatrove ray deepspeed
	$(BIN)/python -m pytest tests -m "nightly or not nightly"
	native/fuzz/run.sh 600

format: $(STAMP)
	$(BIN)/ruff check --fix src tests benchmarks tools
	$(BIN)/ruff format src tests benchmarks tools

# Collects the messages of the source into the catalogue of Chinese, and compiles it.
messages: $(STAMP)
	$(BIN)/python tools/messages.py

clean:
	rm -rf $(VENV) build dist
