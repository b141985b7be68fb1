# The README's two commands. Each makes what it needs first; every path is relative, so a checkout may sit in a folder
# with spaces. Another Python: make lab PYTHON=python3.12

VENV := .venv
RUN := $(VENV)/bin/python
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do if $$p -c '$(FITS)' 2>&-; then echo $$p; break; fi; done)

.PHONY: lab test rules lint docs packages clean

lab: packages
	@$(RUN) -m desta_lab quickstart

# Types are checked while the tests begin: either may fail the target.
test: rules
	@echo "mypy: types of the package; pytest: behaviour"
	@$(RUN) -m mypy & types=$$!; $(RUN) -m pytest -n 2; tests=$$?; wait $$types && exit $$tests

docs: packages
	@$(RUN) docs/make_commands.py
	@$(RUN) docs/make_cost.py
	@$(RUN) -m mkdocs build --strict --quiet

rules: packages
	@echo "ruff: rules, then layout"
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

lint: rules
	@echo "mypy: types of the package"
	@$(RUN) -m mypy

packages: $(VENV)/installed

# The stamp is written last: an interrupted install is taken up again, a finished one is not repeated.
$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Found no Python 3.11, 3.12 or 3.13 that has venv (on Debian and Ubuntu: apt install python3-venv). Install one, or name it: make lab PYTHON=..."; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "making $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv --clear $(VENV); }
	@echo "installing the packages of constraints.txt into $(VENV) (once; some minutes)"
	@$(RUN) -m pip install -qq --no-compile --disable-pip-version-check -c constraints.txt -e ".[lab,dev]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache site
