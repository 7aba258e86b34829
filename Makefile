# The commands of everyday work. `.ci/run` and the workflows call them too, so that each stands once.
# `make help` prints the list.
.DEFAULT_GOAL := help
.PHONY: help dev check format test slow gpu gate bench-quick docs

# Python finds the installed package, not the source folder of the same name, and draws without a display.
export PYTHONSAFEPATH := 1
export MPLBACKEND := Agg

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Instruction sets that `make dev` compiles beside baseline, separated by ";"; none stands for all, which a wheel has.
VARIANTS ?= $(if $(shell grep -s avx512bw /proc/cpuinfo),avx512,$(if $(shell grep -s avx2 /proc/cpuinfo),avx2,baseline))

dev: ## install into this environment, editable, with the fast build (VARIANTS="avx2;avx512" for more sets)
	pip install scikit-build-core pybind11 ninja cmake
	pip install --no-build-isolation -e ".[test,lint]" -Cbuild-dir=build \
	    -Ccmake.define.SSLK_VARIANTS="$(VARIANTS)" -Ccmake.define.SSLK_CUDA=OFF

check: ## lint: ruff, its format, clang-format, mypy
	ruff check .
	ruff format --check .
	clang-format --dry-run --Werror $$(git ls-files -co --exclude-standard csrc)
	mypy

format: ## let ruff and clang-format write what `make check` asks for
	ruff check --fix .
	ruff format .
	clang-format -i $$(git ls-files -co --exclude-standard csrc)

test: ## the suite, or one family's tests: make test FAMILY=tokens
	pytest $(if $(FAMILY),tests/$(FAMILY))

slow: ## full sweeps, learning, every Triton kernel for sm_80, sm_90 and sm_100, CUDA kernels under ASan
	OMP_NUM_THREADS=1 pytest -n 2 --dist load -m "slow and not gpu and not seeds" -q

gpu: ## tests on this machine's CUDA device
	pytest -m gpu -n 0

gate: ## lost fusions: memory and speed against the committed results
	pytest benchmarks/test_regression.py -q

bench-quick: ## run every workload once at a tiny size (FAMILY=tokens for one family); its times mean nothing
	mkdir -p build
	sslkernels bench run $(or $(FAMILY),all) --quick --out build/bench-quick.jsonl

docs: ## build the documentation into build/site, warnings are errors
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
