# Each target works as the first command on a bare clone: it makes .venv from the hash-pinned lock itself.
# Only python3 and make are needed; ffmpeg, ffprobe, the S3 server and PostgreSQL come in wheels.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv-peers/.installed
FOREIGN := .venv-foreign/.installed
VENDORS := .venv-vendors/.installed
LITELLM := .venv-litellm/.installed
TWO := --numprocesses 2   # two tests at a time; each worker has servers of its own
# What not even its timeout ends, as where C code waits, is named with its traceback, and ends with its worker.
NO_HANG := -o faulthandler_timeout=1500 -o faulthandler_exit_on_timeout=true
SEED ?=                   # of the order of tests and of what test-long and mutants draw; each run prints its own
ROOMS ?= operations store api/auth.py rules
NUMBER ?= 20
SINCE ?= HEAD
SEEDED = $(if $(SEED),--randomly-seed=$(SEED))
unexport PYTHONDONTWRITEBYTECODE   # where it is set, each of hundreds of processes would compile all modules anew
RULES_FLOOR := 90         # percent; 90.0 of rules by tests/rules alone
OPERATIONS_FLOOR := 80

.PHONY: install demo test test-changed test-long test-soak snapshots guards mutants coverage check docs pages pictures fmt bench lock clean
.DEFAULT_GOAL := demo

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

install: $(STAMP)       ## .venv alone, for reelkeeper scan

demo: $(STAMP)          ## the main job on real videos, in a folder to look at
	$(BIN)/reelkeeper demo

test: $(STAMP)          ## everything a change must keep true, in five minutes
	$(BIN)/pytest -m "not long" $(TWO) --dist loadfile $(NO_HANG) $(SEEDED)

test-changed: $(STAMP)  ## the quick tests that depend on what has changed since SINCE, by imports and fixtures
	$(BIN)/python -m tests.changed $(SINCE)

test-long: $(STAMP) $(FOREIGN) $(VENDORS) ## kills, quality runs, more examples: a third of all cases, drawn by a SEED
	$(BIN)/pytest -m "(long or hypothesis) and not soak and not undrawn" --hypothesis-profile thorough \
	  $(TWO) --dist worksteal $(NO_HANG) $(SEEDED)

test-soak: $(STAMP) $(FOREIGN) $(VENDORS) $(LITELLM) ## for a night: all cases, most examples, dead servers, each guard off
	$(BIN)/pytest -m "(long or hypothesis) and not soak" --hypothesis-profile exhaustive \
	  $(TWO) --dist worksteal $(NO_HANG) $(SEEDED)
	$(BIN)/pytest -m soak --ignore tests/ablation $(SEEDED)
	$(MAKE) guards

snapshots: pages        ## write the sentences that tests hold as snapshots, and the tables of docs/, anew; LONG=1 for all
	$(BIN)/python -m tests.snapshots $(if $(LONG),--long)

guards: $(STAMP) $(FOREIGN) ## each guard switched off by itself, and its witness must fail: half an hour of CPU
	$(BIN)/pytest -m soak tests/ablation $(TWO)

mutants: $(STAMP)       ## NUMBER changes to unmarked code in each of ROOMS, drawn by SEED: which tests notice, and what survives
	$(BIN)/python -m tests.mutants $(ROOMS) --number $(NUMBER) $(if $(SEED),--seed $(SEED))

coverage: $(STAMP)      ## lines and branches of rules and operations that their tests reach, against a floor
	$(BIN)/pytest tests/rules tests/operations -m "not soak" $(TWO) --dist loadfile --cov --cov-report=
	$(BIN)/coverage report --include "reelkeeper/rules/*" --fail-under $(RULES_FLOOR)
	$(BIN)/coverage report --include "reelkeeper/operations/*" --fail-under $(OPERATIONS_FLOOR)

check: $(STAMP)         ## format, lint, types, imports, and a witness for each guard
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.ablation check

docs: $(STAMP)          ## the documentation, in build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

pages: $(STAMP)         ## what the pages of docs/ take from the code, written into them
	$(BIN)/python -m docs.generated.pages

pictures: $(STAMP)      ## the README's picture of the report, anew, from the demo; needs chromium
	$(BIN)/reelkeeper demo
	chromium --headless --no-sandbox --hide-scrollbars --window-size=960,1480 \
	  --screenshot=docs/assets/report.png file://$(CURDIR)/.reelkeeper/demo/report.html

fmt: $(STAMP)           ## write the format and the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) $(PEERS) ## ratios against named peers and floors; .venv-peers is for forecasts and anomalies
	$(BIN)/python -m bench

$(PEERS): bench/forecast-peers.lock
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	touch $@

$(FOREIGN): tests/foreign-s3.lock
	$(PYTHON) -m venv .venv-foreign
	.venv-foreign/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	touch $@

$(VENDORS): tests/vendor-clients.lock
	$(PYTHON) -m venv .venv-vendors
	.venv-vendors/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	touch $@

$(LITELLM): tests/litellm-proxy.lock
	$(PYTHON) -m venv .venv-litellm
	.venv-litellm/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	touch $@

lock:                   ## compile the lock anew (uv is used for this alone)
	$(PYTHON) -m venv .lockenv && .lockenv/bin/pip install --quiet uv
	.lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --all-extras --group dev pyproject.toml -o requirements.lock
	.lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --extra redis -c requirements.lock pyproject.toml -o docker/requirements.lock
	for extra in dask kubernetes; do \
	  .lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-header --extra $$extra -c requirements.lock \
	    $$(sed -n 's/^\([a-z0-9-]*\).*==.*/--no-emit-package \1/p' docker/requirements.lock) pyproject.toml \
	    -o docker/$$extra.lock || exit 1; done
	.lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --group build -c requirements.lock -o docker/build.lock
	.lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header bench/forecast-peers.in -o bench/forecast-peers.lock
	.lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header tests/foreign-s3.in -o tests/foreign-s3.lock
	.lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header tests/vendor-clients.in -o tests/vendor-clients.lock
	.lockenv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header tests/litellm-proxy.in -o tests/litellm-proxy.lock
	rm -rf .lockenv

clean:
	rm -rf .venv .venv-peers .venv-foreign .venv-vendors .venv-litellm build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
