# make demo and make test do all the set-up on a fresh clone; everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
DEMO_STEPS := 600

.PHONY: help demo test lint docs figures clean

help:  ## Say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml
	@echo "Installing piflow into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	@echo "Installing piflow with its test tools into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --editable '.[dev,digits]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## Distil a 4-NFE student of the embedded text-to-image teacher, draw with it, measure it
	@echo "1/3  A small text-to-image teacher becomes a student of four evaluations, in $(DEMO_STEPS) of the 1,600 steps of its preset (four to six minutes)."
	$(BIN)/piflow distill --preset emoji-4nfe --steps $(DEMO_STEPS) --out $(DEMO)
	@echo "2/3  The student draws."
	$(BIN)/piflow sample "a cat" "a panda" "a lion" "a red heart" "a guitar" "flag of japan" "a house" "a purple cat" \
		--num-images 8 --nfe 4 --model $(DEMO) --grid --out $(DEMO)/samples.png
	@echo "3/3  The student beside its teacher at 1 to 32 steps, on the same prompts and noise."
	$(BIN)/piflow benchmark --metric fid --model $(DEMO) --samples 500 --json $(DEMO)/benchmark.json --report $(DEMO)/benchmark.html
	@echo "Pictures: $(DEMO)/samples.png (the student's) and $(DEMO)/previews/ (teacher above student, while it learnt)."
	@echo "Pages for a browser: $(DEMO)/report.html (how it learnt) and $(DEMO)/benchmark.html (how good it is)."

test: $(VENV)/.test  ## Run every test, with coverage and its floors
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --cov=piflow_cli --cov-report=term --cov-fail-under=85
	$(BIN)/coverage report --include='piflow_cli/core/*,piflow_cli/policies/*,piflow_cli/preset.py' --fail-under=95

lint: $(VENV)/.test  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.test  ## Write the references in docs/ from the code
	$(BIN)/python -m piflow_cli.cli.reference

figures: $(VENV)/.test  ## Measure and draw anew what README and docs show
	$(BIN)/python -m piflow_cli.speed.figures

clean:  ## Remove the environment and caches; runs/ and samples/ are yours and stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .coverage htmlcov
