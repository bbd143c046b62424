# Every target makes its own environment first: .venv, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo hosts test lint format bench constraints clean

demo: $(VENV)/examples.stamp
	$(BIN)/python examples/train_gpt.py $(ARGS)

hosts: $(VENV)/examples.stamp
	$(BIN)/python examples/multi_host.py $(ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n auto $(ARGS)

bench: $(VENV)/examples.stamp
	$(BIN)/python benchmarks/update_step.py $(ARGS)
	$(BIN)/python benchmarks/compile_time.py
	$(BIN)/python benchmarks/sharded_work.py

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/lint.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# writes the versions that are installed now into constraints.txt, after an upgrade by hand
constraints: $(VENV)/lint.stamp
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:
	rm -rf $(VENV)

# an extra of pyproject.toml, installed anew whenever the metadata or a pin changes
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
