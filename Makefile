# Every target makes its own environment first: .venv, with the versions of constraints.txt.
PYTHON ?= python3
# nothing is pinned there, Python neither: what breaks next time is to break here before it breaks at a user's
NEWEST_PYTHON = $(shell .ci/newest-python)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo hosts test test-oldest test-newest test-long lint format bench evidence constraints clean

demo: $(VENV)/examples.stamp
	$(BIN)/python examples/train_gpt.py $(ARGS)

hosts: $(VENV)/examples.stamp
	$(BIN)/python examples/multi_host.py $(ARGS)

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n auto $(ARGS)

# the lowest versions that pyproject.toml allows
test-oldest: .venv-oldest/test.stamp
	.venv-oldest/bin/python -m pytest -n auto $(ARGS)

# the highest that there are today, pinned or not, on the newest Python of this machine
test-newest: | .venv-newest/bin/python
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	.venv-newest/bin/python -m pytest -n auto $(ARGS)

# the same claims over thousands of random trees, 20,000 steps and 20 killed runs: half an hour
test-long: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n auto --long -m long $(ARGS)

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/update_step.py $(ARGS)
	$(BIN)/python benchmarks/compile_time.py
	$(BIN)/python benchmarks/sharded_work.py
	$(BIN)/python benchmarks/constraints.py --layers 2
	$(BIN)/python benchmarks/overhead.py

evidence: $(VENV)/examples.stamp
	$(BIN)/python benchmarks/training.py $(ARGS)
	$(BIN)/python benchmarks/training.py --digits $(ARGS)
	$(BIN)/python benchmarks/learning_rate_transfer.py $(ARGS)
	$(BIN)/python benchmarks/learning_rate_transfer.py --digits $(ARGS)

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
	rm -rf $(VENV) .venv-oldest .venv-newest

# an extra of pyproject.toml, installed anew whenever the metadata or a pin changes
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@

.venv-oldest/test.stamp: pyproject.toml constraints-oldest.txt | .venv-oldest/bin/python
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[test]'
	@touch $@

.venv-newest/bin/python: PYTHON = $(NEWEST_PYTHON)
$(BIN)/python .venv-oldest/bin/python .venv-newest/bin/python: %/bin/python:
	$(PYTHON) -m venv $*
