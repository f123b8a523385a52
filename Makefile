# The commands for working on the project. `make` alone prints the list.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test lint unit soak audit build setup bench docs diagram image image-test fresh clean

BIN := git-partition-sync-producer
IMAGE ?= $(BIN):v$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Watch both programs run between two GitLabs of their own (KEEP=1 leaves them up)
	@scripts/demo $(if $(filter-out 0,$(KEEP)),keep)

test: ## Install what the tests need, then check formatting, lints and documentation and run all tests
	@scripts/test

lint: ## Check only formatting, clippy, manifests and documentation; warnings fail
	@scripts/test lint

unit: ## Run only the tests, without formatting and lints
	@scripts/test tests

soak: ## Run hundreds of passes with random pushes and faults (PASSES=300, SEED=… to repeat one)
	@PASSES="$(PASSES)" SEED="$(SEED)" scripts/soak

audit: ## Check all dependencies for licences, duplicates, sources and known vulnerabilities (deny.toml)
	@scripts/audit

build: ## Build both programs, optimised, into target/release
	cargo build --release --locked --bin $(BIN) --bin git-partition-sync-consumer

setup: ## Install what tests and demo need, and nothing else
	@scripts/setup

bench: ## Compare with what a user would do instead (ARGS="--rounds 5 W1 W2 …"); takes long
	@scripts/bench $(ARGS)

docs: ## Write man page and shell completions into target/docs
	@scripts/docs target/docs

diagram: ## Draw gitsync-diagram.png from docs/diagram.dot (needs Graphviz)
	dot -Tpng -o gitsync-diagram.png docs/diagram.dot

image: ## Build the container image with docker, podman or buildah (IMAGE=name:tag)
	@scripts/image $(IMAGE)

image-test: ## Build the image without a container engine and run the programs from it (root, Debian; takes long)
	@scripts/image-test

fresh: ## Run demo and test in a minimal Debian made for them (ONLY=demo or test; root, Debian; takes long)
	@scripts/fresh $(ONLY)

clean: ## Remove everything that was built
	cargo clean
