# make demo and make test do all the set-up on a fresh clone; everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: help demo test lint docs clean

help:  ## Say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(BIN)/python pyproject.toml
	@echo "Installing piflow into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --editable '.[digits]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	@echo "Installing piflow with its test tools into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --editable '.[dev,digits]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## Distil a 1-NFE student of scanned digits, draw with it, measure it
	@echo "1/3  A teacher trained on real scanned digits becomes a student of one network evaluation."
	$(BIN)/piflow distill --preset digits-1nfe --out $(DEMO)
	@echo "2/3  The student draws."
	$(BIN)/piflow sample 0 1 2 3 4 5 6 7 8 9 --num-images 10 --model $(DEMO) --grid --out $(DEMO)/digits.png
	@echo "3/3  The student at one evaluation beside its teacher at 1 to 128, on the same noise."
	$(BIN)/piflow benchmark --metric fid --metric accuracy --model $(DEMO) --samples 1000 \
		--teacher-steps 1,2,4,8,16,32,64,128 --json $(DEMO)/benchmark.json
	@echo "Pictures: $(DEMO)/digits.png (the student's) and $(DEMO)/previews/ (teacher above student, while it learnt)."

test: $(VENV)/.test  ## Run every test, with coverage and its floors
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --cov=piflow_cli --cov-report=term --cov-fail-under=85
	$(BIN)/coverage report --include='piflow_cli/core/*,piflow_cli/policies/*,piflow_cli/preset.py' --fail-under=95

lint: $(VENV)/.test  ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.test  ## Write docs/cli.md and docs/presets.md from the code
	$(BIN)/python -m piflow_cli.cli.reference

clean:  ## Remove the environment and caches; runs/ and samples/ are yours and stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .coverage htmlcov
