# `make run` does the main job from nothing; `make test` tests it. `make help` lists the rest.
SHELL := /bin/bash
RECSYS := .venv/bin/recsys
PYTHON := .venv/bin/python
# What to run on: simulator, online_retail:PATH, movielens:PATH, retailrocket:PATH or canonical:PATH
DATA ?= simulator

.DEFAULT_GOAL := help
.PHONY: help setup run test check format stop status clean bench lock

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## install what is missing and make the two environments from the locks
	@infra/setup.sh

run: setup ## start the platform, run the daily DAG on DATA, show recommendations
	@$(RECSYS) use $(firstword $(subst :, ,$(DATA)))
	@$(RECSYS) up
	@$(RECSYS) run daily --source "$(DATA)"
	@$(RECSYS) tour

test: ## all tests: unit, spark, contract, services, browser, Airflow, end to end
	@infra/setup.sh test
	@$(PYTHON) -m pytest
	@PYTHONPATH=$(CURDIR) .venv-airflow/bin/python -m pytest -c tests/airflow/pytest.ini tests/airflow

check: setup ## formatting, lint, types, import contracts, links in the docs
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m pytest -q tests/docs

format: setup ## rewrite the code in the project's format
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

stop: ## stop every process of the platform
	@if [ -x $(RECSYS) ]; then $(RECSYS) down; fi

status: ## what runs, where, and how it is
	@$(RECSYS) status

bench: setup ## measure (starts the platform anew); one JSON line per figure goes to bench/results.jsonl
	@$(PYTHON) -m bench --source "$(DATA)"

lock: ## resolve the environments anew
	@for name in platform airflow; do \
	  .venv-tools/bin/uv pip compile -q --python-version 3.11 --no-header infra/locks/$$name.in -o infra/locks/$$name.txt; done

clean: stop ## stop, and delete the environments and everything under var/
	@rm -rf var .venv .venv-airflow .venv-tools build dist *.egg-info
