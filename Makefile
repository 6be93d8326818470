# pg_notary. PG=15 chooses a major version of Postgres, PG_CONFIG=/path/to/pg_config an installation; without them an
# installed Postgres is taken, or else one is fetched (scripts/setup.sh). CARGO_TARGET_DIR is honoured.

export PG PG_CONFIG DESTDIR
# Of make bench.
export QUICK ONLY ROUNDS SECONDS_EACH GROWTH SIZES MODE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'PG=15 chooses the major version of Postgres, PG_CONFIG=/path/to/pg_config an installation.'

demo: ## get what is missing, build, and run the main job on a throwaway cluster
	@scripts/demo.sh

test: ## the same set-up, then every test: domain, SQL surface, clusters
	@scripts/test.sh

test-domain: ## only the tests that need no Postgres
	@scripts/test.sh domain

test-cluster: ## only the Rust tests: domain and clusters
	@scripts/test.sh cluster

regress: ## only the SQL surface, on a throwaway cluster
	@scripts/regress.sh

build: ## the release extension, under target/package
	@scripts/build.sh

install: ## build and install into an installed Postgres (DESTDIR is honoured)
	@scripts/install.sh

installcheck: ## the SQL surface against a running server where pg_notary is installed and loaded (PGHOST, PGPORT, ...)
	@scripts/regress.sh --installed

lint: ## formatting, clippy and rustdoc on all feature sets, as in CI
	@scripts/lint.sh $(PG)

bench: ## what recording costs, against its targets; QUICK=1 takes less than two minutes (README, Benchmarks)
	@scripts/bench.sh

clean: ## remove what was built; what was fetched (target/tools) stays
	@if [ -d target ]; then find target -mindepth 1 -maxdepth 1 ! -name tools -exec rm -rf {} +; fi
	@if [ -n "$$CARGO_TARGET_DIR" ]; then cargo clean; fi

.PHONY: help demo test test-domain test-cluster regress build install installcheck lint bench clean
