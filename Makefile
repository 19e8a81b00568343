# The doors of apgms.release. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

INVENTORY ?= inventories/$(STACK)
PY = PYTHONPATH=.collections $(BIN)/python
PLAY = ansible-playbook -i $(INVENTORY) $(ARGS)

## ---- the runbook (STACK=proto|prod, INVENTORY=..., ARGS=...)

pull-rates: stack setup         ## pull the latest rates catalog
	$(PLAY) playbooks/pull_rates.yml
seed: stack setup               ## seed the sandbox ledger
	$(PLAY) playbooks/seed.yml
smoke: stack setup              ## smoke test
	$(PLAY) playbooks/smoke.yml
verify-rpt: stack setup         ## verify the RPTs, build the bundle and its manifest
	$(PLAY) playbooks/verify_rpt.yml
package: stack setup            ## package the artifacts for auditors
	$(PLAY) playbooks/package.yml
ledger-snapshot: stack setup    ## snapshot the ledger, print the hash summary
	$(PLAY) playbooks/ledger_snapshot.yml
release: stack setup            ## submit to the gateway and watch until acknowledged
	$(PLAY) playbooks/release.yml
rollback: stack setup           ## roll back to TARGET=<manifest checksum>
	ROLLBACK_TARGET='$(or $(TARGET),$(ROLLBACK_TARGET))' $(PLAY) playbooks/rollback.yml
handover: stack setup           ## hand over to the auditors
	$(PLAY) playbooks/handover.yml

stack:
	@[[ "$(STACK)" == proto || "$(STACK)" == prod ]] || { \
	  echo "STACK is '$(STACK)'. Where: the command line. Why: it must be proto or prod." \
	       "Mend: make $(firstword $(MAKECMDGOALS)) STACK=proto" >&2; exit 2; }

## ---- this checkout

setup: .venv/local.stamp        ## install what a run needs, pinned, into .venv

dev: .venv/dev.stamp

.venv/pip.stamp: requirements/pip.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

.venv/local.stamp: requirements/local.txt requirements/runtime.txt .venv/pip.stamp
	$(BIN)/python -m pip install --quiet --require-hashes -r $<
	touch $@

.venv/dev.stamp: requirements/dev.txt .venv/pip.stamp
	$(BIN)/python -m pip install --quiet --require-hashes -r $<
	touch $@ .venv/local.stamp

lock:                           ## pin the requirements anew (needs uv)
	for name in pip runtime local dev; do \
	  uv pip compile --quiet --universal --generate-hashes --no-header --no-emit-index-url \
	    --no-emit-find-links --python-version 3.11 requirements/$$name.in -o requirements/$$name.txt; \
	done

local-up: setup                 ## start the embedded stack below build/local
	$(PY) -m services.local up
local-down: setup               ## stop it
	$(PY) -m services.local down

demo: setup                     ## the whole runbook on the embedded stack; evidence in build/demo
	$(PY) -m services.demo

test: dev                       ## unit and integration tests, unprivileged
	$(BIN)/pytest -m 'not slow' $(PYTEST_ARGS)

test-all: dev test lint sanity molecule ## all of it
	$(BIN)/pytest -m slow $(PYTEST_ARGS)
	$(MAKE) faults SEEDS=$(or $(SEEDS),20)
	$(MAKE) fuzz COUNT=$(or $(COUNT),2000)
	@echo "test-all: everything above passed"

lint: dev                       ## ruff, mypy, yamllint, ansible-lint, shellcheck, the docs
	ruff check .
	ruff format --check .
	mypy plugins/module_utils
	yamllint --strict .
	ansible-lint --offline
	shellcheck scripts/*.sh .ci/run .ci/sanity .ci/molecule .ci/docs roles/*/files/*.sh
	antsibull-docs lint-collection-docs --plugin-docs .
	@echo "lint: no findings"

sanity: dev                     ## ansible-test sanity on a staged copy
	.ci/sanity

molecule: dev                   ## every role's scenario; ONLY=<role> for one
	.ci/molecule $(ONLY)

bench: dev                      ## measure; ONLY=snapshot|seed|rpt|flow|gateway|rollback|evidence|fleet, ROWS=
	$(PY) -m tests.bench --only "$(ONLY)" --rows "$(ROWS)"

faults: dev                     ## crash points and seeded fault schedules; SEEDS=
	$(PY) -m tests.faults --seeds $(or $(SEEDS),500)

fuzz: dev                       ## mutated statements, signatures, manifests, flags; COUNT=
	$(PY) -m tests.fuzz --count $(or $(COUNT),20000)

docs: dev                       ## module and role documentation as HTML below build/docs
	.ci/docs

clean:                          ## stop the embedded stack, remove what was made here
	-[ ! -x $(BIN)/python ] || $(PY) -m services.local down
	rm -rf build .venv .ansible .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:
	@awk -F '## ' '/^## ----/ {print "\n" substr($$2, 6)} \
	  /^[a-z-]+:.*## / {split($$1, name, ":"); printf "  %-16s %s\n", name[1], $$2}' Makefile

.PHONY: pull-rates seed smoke verify-rpt package ledger-snapshot release rollback handover stack \
        setup dev lock local-up local-down demo test test-all lint sanity molecule bench faults \
        fuzz docs clean help
