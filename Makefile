# Everything one types while working on the project. `make` alone prints the list.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test lint unit soak audit build setup bench docs diagram image image-test clean

BIN := git-partition-sync-producer
IMAGE ?= quay.io/app-sre/$(BIN):v$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Watch the program at work, on real servers of its own (KEEP=1 leaves them up)
	@scripts/demo $(if $(filter-out 0,$(KEEP)),keep)

test: ## Install what tests need, then formatting, lints, documentation and all tests
	@scripts/test

lint: ## Formatting, clippy and documentation only, warnings denied
	@scripts/test lint

unit: ## The tests alone, without formatting and lints
	@scripts/test tests

soak: ## Hundreds of passes with random pushes and faults (PASSES=300, SEED=… to repeat one)
	@PASSES="$(PASSES)" SEED="$(SEED)" scripts/soak

audit: ## Licences, duplicates, sources and known vulnerabilities of all dependencies (deny.toml)
	@scripts/audit

build: ## The program, optimised, in target/release
	cargo build --release --locked --bin $(BIN)

setup: ## Only install what tests and demo need
	@scripts/setup

bench: ## Compare with what a user would do instead (ARGS="--rounds 5 W1 W2 …"); takes long
	@scripts/bench $(ARGS)

docs: ## Man page and shell completions, into target/docs
	@cargo run --quiet --locked --example docs target/docs

diagram: ## Draw gitsync-diagram.png from docs/diagram.dot (needs Graphviz)
	dot -Tpng -o gitsync-diagram.png docs/diagram.dot

image: ## Build the container image with docker, podman or buildah (IMAGE=name:tag)
	@scripts/image $(IMAGE)

image-test: ## Build the image without an engine and run the program out of it (root, Debian; takes long)
	@scripts/image-test

clean: ## Remove everything that was built
	cargo clean
