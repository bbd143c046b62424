# Every target makes its own environment first: .venv, with the versions of constraints.txt.
PYTHON ?= python3
# nothing is pinned there, Python neither: what breaks next time is to break here before it breaks at a user's
NEWEST_PYTHON = $(shell .ci/newest-python)
VENV := .venv
BIN := $(VENV)/bin
# a worker takes from another what that has not come to: neighbours share programs, and none is idle at the end
PYTEST := -m pytest -n auto --dist worksteal
# XLA compiles for CPUs in a third of the time with its former emitters of fusions, a program in one piece
QUICK := XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

.PHONY: demo docs docs-serve figures dist hosts test test-examples test-oldest test-newest test-real test-long lint format bench evidence constraints clean

demo: $(VENV)/examples.stamp
	$(BIN)/python examples/train_gpt.py $(ARGS)

hosts: $(VENV)/examples.stamp
	$(BIN)/python examples/multi_host.py $(ARGS)

# claims about numbers run in the programs that users compile; ARGS may choose tests of one kind alone, which is code 5
test: $(VENV)/test.stamp
	$(QUICK) $(BIN)/python $(PYTEST) -m "not optimized" $(ARGS); quick=$$?; \
	$(BIN)/python $(PYTEST) -m optimized $(ARGS); users=$$?; \
	case $$quick,$$users in 0,0|0,5|5,0) ;; *) exit 1;; esac

# the examples, the demo and the benchmarks, as their users call them
test-examples: $(VENV)/test.stamp
	$(BIN)/python $(PYTEST) tests/examples $(ARGS)

# the lowest versions that pyproject.toml allows
test-oldest: .venv-oldest/test.stamp
	.venv-oldest/bin/python $(PYTEST) $(ARGS)

# the highest that there are today, pinned or not, on the newest Python of this machine
test-newest: | .venv-newest/bin/python
	.venv-newest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[examples]' --group test
	.venv-newest/bin/python $(PYTEST) $(ARGS)

# inference on models of other packages, beside the layouts of their frameworks: two minutes
test-real: .venv-real/real.stamp
	.venv-real/bin/python -m pytest -n 2 tests/real $(ARGS)

# the same claims over thousands of random trees, 20,000 steps and 20 killed runs: half an hour
test-long: $(VENV)/test.stamp
	$(BIN)/python $(PYTEST) --long -m long $(ARGS)

bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/update_step.py $(ARGS)
	$(BIN)/python benchmarks/compile_time.py
	$(BIN)/python benchmarks/sharded_work.py
	$(BIN)/python benchmarks/constraints.py --layers 2
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/track.py

# the documentation, in docs/_build/html; warnings are errors, notebooks are executed
docs: $(VENV)/docs.stamp
	$(BIN)/python docs/results.py --check
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

docs-serve: docs
	$(BIN)/python -m http.server --directory docs/_build/html --bind 127.0.0.1 8000

# the pictures of the documentation, and the numbers in it, after results have changed
figures: $(VENV)/examples.stamp
	for script in front duals unit_steps valleys; do $(BIN)/python docs/figures/$$script.py || exit 1; done
	$(BIN)/python docs/results.py

# source distribution and wheel, built, checked, and the wheel imported from where it was installed alone
dist: $(VENV)/dist.stamp
	rm -rf dist build/installed
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed dist/*.whl
	cd build && PYTHONPATH=installed ../$(BIN)/python ../tests/installed.py

# the runs behind the documentation's tables of training, where they are not there yet: hours
evidence: $(VENV)/examples.stamp
	$(BIN)/python benchmarks/panel.py --task "usual gpt" --contender modular muon --rates 0.042 0.063 0.095 --seeds 0-1 $(ARGS)
	$(BIN)/python benchmarks/panel.py --task "clean gpt" --contender modular muon --rates 0.042 0.063 0.095 --seeds 0-1 $(ARGS)
	$(BIN)/python benchmarks/panel.py --report

lint: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/pyright --verifytypes modula_optax --ignoreexternal

format: $(VENV)/lint.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# writes the versions that are installed now, of all groups, into constraints.txt, after an upgrade by hand
constraints: $(VENV)/lint.stamp $(VENV)/docs.stamp $(VENV)/dist.stamp
	$(BIN)/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest .venv-real build dist docs/_build docs/_generated

# a dependency group of pyproject.toml beside the package, installed anew whenever the metadata or a pin changes
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[examples]' --group $*
	@touch $@

$(VENV)/examples.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[examples]'
	@touch $@

.venv-oldest/test.stamp: pyproject.toml constraints-oldest.txt | .venv-oldest/bin/python
	.venv-oldest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-oldest/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[examples]' --group test
	@touch $@

.venv-real/real.stamp: pyproject.toml constraints-real.txt | .venv-real/bin/python
	.venv-real/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-real/bin/python -m pip install --quiet --constraint constraints-real.txt --editable . --group real
	@touch $@

.venv-newest/bin/python: PYTHON = $(NEWEST_PYTHON)
$(BIN)/python .venv-oldest/bin/python .venv-newest/bin/python .venv-real/bin/python: %/bin/python:
	$(PYTHON) -m venv $*
