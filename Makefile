# The two commands a newcomer needs, and what CI adds. Everything lives in .venv.
PYTHON ?= python3
export JAX_COMPILATION_CACHE_DIR ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/egd-optax/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

.PHONY: demo test slow accelerator lint types docs notebooks package oldest newest clean

demo: .venv/installed
	.venv/bin/egd-grok race addition --modulus 97 --seeds 3 --max-steps 1100 --patience 3 --out runs/add97

PYTEST = .venv/bin/python -m pytest --numprocesses auto --dist worksteal $(COVERAGE)

test: .venv/installed
	$(PYTEST) -m 'not slow'
	@echo "Every example, benchmark and process of its own: make slow"

slow: .venv/installed
	$(PYTEST) -m slow

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed
	.venv/bin/mypy egd_optax

# On a GPU or TPU, eight minutes. DEVICE_PYTHON=python3 where that has jax for the device
# and the packages of '.[grokking]', and there is no network to install anything.
DEVICE_PYTHON ?= .venv/bin/python
accelerator: $(if $(filter .venv/%,$(DEVICE_PYTHON)),.venv/installed)
	PYTHONPATH=. $(DEVICE_PYTHON) benchmarks/speed/accelerator.py

docs: .venv/installed
	.venv/bin/python docs/pictures.py
	.venv/bin/sphinx-build -W --keep-going -q docs docs/_build
	@echo "The pages are there: open docs/_build/index.html"

# PYTHONS="python3.11 python3.13" names those whose empty environments are tried.
package: .venv/installed
	.ci/package $(or $(PYTHONS),$(PYTHON))

oldest:
	.ci/versions oldest $(or $(PYTHONS),$(PYTHON))

# Python 3.12 and 3.13, unless PYTHONS names others.
newest:
	.ci/versions newest $(or $(PYTHONS),python3.12 python3.13)

notebooks: .venv/installed
	.venv/bin/jupytext --to ipynb examples/notebooks/*.py

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "egd-optax needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv (a minute or two) ..."
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs docs/_build
