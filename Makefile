# Storage drivers of Caddy's certificate authority that nobody asked for; Caddy's own releases leave them out too.
GOFLAGS := $(GOFLAGS) -tags=nobadger,nomysql,nopgx
export GOFLAGS

GOLANGCI_VERSION := v2.15.0
GOLANGCI := .bin/golangci-lint

# Tests start Caddy, which keeps its files where these say. Never the user's own.
TESTHOME := $(CURDIR)/.testhome

.PHONY: help run test lint build fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## start the gateway with a demo provider and a demo MCP server on localhost
	go run ./examples/quickstart

test: ## run everything: the tests, the long ones, and a build with xcaddy
	mkdir -p $(TESTHOME)
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -race ./...
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -race -tags=nobadger,nomysql,nopgx,slow -run '^TestSlow' -count=1 -timeout 20m ./internal/e2e
	$(MAKE) build
	./bin/caddy list-modules | grep -x oauth_proxy
	./bin/caddy list-modules | grep -x http.reverse_proxy.transport.mcp
	@echo "nothing was skipped"

lint: $(GOLANGCI) ## check the code
	test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet ./...
	$(GOLANGCI) run ./...
	go mod tidy -diff

# Kept in the checkout, so that no other project's version is used.
$(GOLANGCI): Makefile
	GOFLAGS= GOBIN=$(CURDIR)/.bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	touch $@

build: ## build bin/caddy from xcaddy.json
	GOFLAGS= go -C internal/build run . ../../xcaddy.json ../../bin/caddy

fmt: $(GOLANGCI) ## format the code
	$(GOLANGCI) fmt ./...

clean: ## remove what was built
	rm -rf bin .bin .testhome .quickstart
