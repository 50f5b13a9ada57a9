# Storage drivers of Caddy's certificate authority that nobody asked for; Caddy's own releases leave them out too.
GOFLAGS := $(GOFLAGS) -tags=nobadger,nomysql,nopgx
export GOFLAGS

GOLANGCI_VERSION := v2.15.0
GOLANGCI := .bin/golangci-lint

# Prometheus's own tool, for the rules of examples/monitoring.
PROMTOOL := .bin/promtool

# What lists the parts of a release, and what knows of holes in them.
CYCLONEDX := .bin/cyclonedx-gomod
GOVULNCHECK := .bin/govulncheck

# Whether there is a browser.
CHROMIUM := { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null

# Whether PostgreSQL's programs and pgbouncer are there, which are not always in the PATH.
POSTGRES := ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || test -x "$$(pg_config --bindir 2>/dev/null)/initdb"
PGBOUNCER := PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null

# Whether there is what validates descriptions and deployments: Go modules of their own, which are downloaded when they are first asked for.
VALIDATORS := { for dir in openapi deployments workflows; do go -C internal/$$dir list -deps -test . || exit 1; done; } >/dev/null 2>&1

# Tests start Caddy, which keeps its files where these say. Never the user's own.
TESTHOME := $(CURDIR)/.testhome

# The Node.js that is installed with the JavaScript clients of the tests, and runs them.
JSNODE := internal/e2e/js/node_modules/.bin/node

.PHONY: help run cluster test deployments bench pictures docs js-deps browser-deps postgres-deps promtool lint vulncheck build reproducible sbom release image links fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## start the gateway with a demo provider and a demo MCP server on localhost
	@test -e .quickstart || echo "Building Caddy with the gateway, which takes a few minutes the first time …"
	go run ./examples/quickstart

cluster: ## start three nodes on one PostgreSQL behind a balancer on localhost
	go run ./examples/cluster

test: js-deps browser-deps postgres-deps promtool ## run everything: the tests, the long ones, and a build with xcaddy
	mkdir -p $(TESTHOME)
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -race -timeout 20m ./...
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -race -tags=nobadger,nomysql,nopgx,slow -run '^TestSlow' -count=1 -timeout 20m ./internal/e2e ./caddyoauthproxy ./caddyoauthproxy/upstream
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -race -tags=nobadger,nomysql,nopgx,slow -run '^TestSlowNothingOpens' -count=1 ./tokenstore/postgres
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -tags=nobadger,nomysql,nopgx,slow -run '^TestSlowTenThousandStreams|^TestSlowCluster|^TestSlowKill' -count=1 -timeout 20m ./internal/e2e # more goroutines than -race can follow, and loads that it would be too slow for
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -tags=nobadger,nomysql,nopgx,slow -run '^TestSlowGrants|^TestSlowGrowth|^TestSlowRekey|^TestManyGrants|^TestMassRevocationSurvives' -count=1 -v ./caddyoauthproxy/authserver ./internal/e2e # figures, which -race would spoil
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -tags=nobadger,nomysql,nopgx,slow -run '^TestSlow' -count=1 -timeout 20m -v ./tokenstore ./tokenstore/bbolt # the same, and many damaged files
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -run '^$$' -bench . -benchtime 1x ./... # benchmarks that nobody runs break unseen
	$(MAKE) deployments
	$(MAKE) build
	./bin/caddy list-modules | grep -x oauth_proxy
	./bin/caddy list-modules | grep -x http.reverse_proxy.transport.mcp
	./bin/caddy list-modules | grep -x http.matchers.mcp
	@all=1; without() { all=; echo "SKIPPED: $$2, because $$1 is missing"; }; \
	test -e $(JSNODE) || without npm "the JavaScript clients and the tests of the pages"; \
	$(CHROMIUM) || without Chromium "the tests of the pages"; \
	{ $(POSTGRES); } || without PostgreSQL "the tests of the vault postgres and of several nodes"; \
	$(PGBOUNCER) || without pgbouncer "the tests of the vault postgres behind a pooler"; \
	command -v python3 >/dev/null || without python3 "the tests of the example chatbot in Python"; \
	command -v systemd-analyze >/dev/null || without systemd-analyze "the test of the systemd units"; \
	( $(VALIDATORS) ) || without "the network" "the tests of docs/openapi.yaml, of the deployments and of the workflows by those who read them"; \
	echo "all passed$${all:+, and nothing was skipped}"

# Not cached: Go does not see that files outside of a module have changed.
deployments: ## check that Kubernetes, Docker and GitHub take the files that are for them
	@if test -z "$$CI" && ! ( $(VALIDATORS) ); then echo "what reads the deployments and the workflows cannot be downloaded: their tests will be SKIPPED"; \
	else go -C internal/deployments test -count=1 . && go -C internal/workflows test -count=1 .; fi

# In turns, so that whatever else the machine does meets all of them alike. ROUNDS, TURN, GRANTS, SIZES and STREAMS make it shorter or longer.
ROUNDS ?= 15
TURN ?= 700ms
GRANTS ?= 100000
SIZES ?= 1000,10000,100000,1000000
STREAMS ?= 100,10000
BENCH = XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -run '^$$' -timeout 60m ./internal/bench
bench: postgres-deps ## compare the gateway with plain reverse_proxy, and write docs/performance.md
	mkdir -p $(TESTHOME)
	$(BENCH) -bench '^Benchmark(Requests|Growth|Issuance)$$' -benchtime $(ROUNDS)x -args -grants $(GRANTS) -sizes $(SIZES) -turn $(TURN) -write $(CURDIR)/docs/performance.md
	$(BENCH) -bench '^BenchmarkStreams$$' -benchtime 2x -args -streams $(STREAMS) -write $(CURDIR)/docs/performance.md

pictures: js-deps browser-deps ## take the pictures of docs/pictures again
	mkdir -p $(TESTHOME)
	XDG_CONFIG_HOME=$(TESTHOME) XDG_DATA_HOME=$(TESTHOME) go test -tags=nobadger,nomysql,nopgx,slow -run '^TestSlowPictures' -count=1 ./internal/e2e -args -pictures

docs: ## write docs/json.md from the doc comments
	go run ./internal/jsonreference

js-deps: ## install the JavaScript clients that the tests run
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(JSNODE); \
	elif test -e $(JSNODE); then :; \
	elif test -n "$$CI"; then echo "npm is missing, and CI must test the JavaScript clients: install Node.js with npm" >&2; exit 1; \
	else echo "npm is missing: the JavaScript clients (MCP conformance suite, TypeScript SDKs) will be SKIPPED; install Node.js with npm to test them"; fi

browser-deps: ## install the browser that the tests look at the pages with
	@if $(CHROMIUM); then :; \
	elif command -v apt-get >/dev/null && test "$$(id -u)" = 0; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	elif test -n "$$CI"; then echo "Chromium is missing, and CI must look at the pages: install it" >&2; exit 1; \
	else echo "Chromium is missing: the tests of the pages will be SKIPPED; install it (on Debian: apt-get install chromium) to run them"; fi

# Servers of the distribution's own are neither made nor started: the tests start theirs.
postgres-deps: ## install the database of the tests, and a pooler
	@if { $(POSTGRES); } && { $(PGBOUNCER); }; then :; \
	elif command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
		mkdir -p /etc/postgresql-common/createcluster.d && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/none.conf; \
		test -e /usr/sbin/policy-rc.d || { trap 'rm /usr/sbin/policy-rc.d' EXIT; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d; }; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql pgbouncer >/dev/null; \
	elif test -n "$$CI"; then echo "PostgreSQL or pgbouncer is missing, and CI must test several nodes: install both" >&2; exit 1; \
	else echo "PostgreSQL or pgbouncer is missing: tests of the vault postgres and of several nodes will be SKIPPED; install them (on Debian: apt-get install postgresql pgbouncer) to run them"; fi

promtool: $(PROMTOOL) ## build promtool, which the tests show the alert rules to

$(PROMTOOL): internal/e2e/promtool/go.mod
	cd internal/e2e/promtool && go build -o $(CURDIR)/$(PROMTOOL) github.com/prometheus/prometheus/cmd/promtool

$(JSNODE): $(addprefix internal/e2e/js/,package.json package-lock.json .npmrc)
	npm ci --prefix internal/e2e/js
	test -x $@ || { echo "npm has not run the install script of the package node: is ignore-scripts set?" >&2; exit 1; }
	touch $@

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

reproducible: build ## build bin/caddy again, of nothing that was compiled before, and compare
	@set -e; cache=$$(mktemp -d); trap 'rm -rf "$$cache"' EXIT; \
	GOCACHE="$$cache" GOFLAGS= go -C internal/build run . ../../xcaddy.json "$$cache/caddy"; \
	cmp bin/caddy "$$cache/caddy" || { echo "the two builds differ: go version -m bin/caddy shows what each is made of" >&2; exit 1; }; \
	echo "the same again: $$(sha256sum <bin/caddy | cut -d ' ' -f 1)"

sbom: build $(CYCLONEDX) ## list the parts of bin/caddy in bin/caddy.cdx.json (CycloneDX)
	$(CYCLONEDX) bin -json -noserial -notimestamp -output bin/caddy.cdx.json bin/caddy

# v0.0.0 is the checkout as it lies here, for a rehearsal. Any other version is built as everybody builds it, of what is published under its tag, and only where that is checked out.
VERSION ?= v0.0.0
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
release: $(CYCLONEDX) ## build all that a release has, of VERSION and for PLATFORMS, in dist
	@echo "$(VERSION)" | grep -Eqx 'v(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-rc\.[0-9]+)?' || { echo "VERSION is vX.Y.Z or vX.Y.Z-rc.N, not $(VERSION)" >&2; exit 1; }
	@test "$(VERSION)" = v0.0.0 || { test -z "$$(git status --porcelain)" && git tag --points-at HEAD | grep -Fqx "$(VERSION)"; } || { echo "this checkout is not what the tag $(VERSION) names" >&2; exit 1; }
	rm -rf dist && mkdir dist
	@set -e; for platform in $(PLATFORMS); do \
		name="caddy_$(VERSION)_$${platform%/*}_$${platform#*/}"; file="$$name"; case $$platform in windows/*) file="$$name.exe";; esac; \
		echo "building $$file"; \
		GOFLAGS= go -C internal/build run . -platform "$$platform" -version "$(VERSION)" ../../xcaddy.json "../../dist/$$file"; \
		$(CYCLONEDX) bin -json -noserial -notimestamp -output "dist/$$name.cdx.json" "dist/$$file"; \
	done
	cp LICENSE dist/LICENSE
	cd dist && sha256sum -- * >SHA256SUMS

IMAGE ?= caddy-oauth-proxy
image: ## build the container image IMAGE:VERSION of the programs for Linux in dist
	docker build --file Containerfile --build-arg VERSION=$(VERSION) --tag $(IMAGE):$(VERSION) .

# Findings fail. Where the database cannot be asked, nothing can be found.
vulncheck: $(GOVULNCHECK) ## look for known vulnerabilities in what is called
	@database="$${GOVULNDB:-https://vuln.go.dev}"; \
	if curl -fsS -m 30 -o /dev/null "$$database/index/db.json"; then $(GOVULNCHECK) -db "$$database" ./...; \
	else echo "the database of known vulnerabilities, $$database, cannot be reached: the check was SKIPPED"; fi

# With -trimpath, because a list of parts has the checksum of what has made it, and is to be the same wherever that is done.
$(CYCLONEDX) $(GOVULNCHECK): internal/supply/go.mod internal/supply/go.sum
	cd internal/supply && GOFLAGS=-trimpath GOBIN=$(CURDIR)/.bin go install github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod golang.org/x/vuln/cmd/govulncheck
	touch $(CYCLONEDX) $(GOVULNCHECK)

# Asks strangers' servers, so it is no part of the tests. What cannot be reached from here is listed, and does not fail.
links: ## ask whether the pages that the docs link to are still there
	go test -tags=nobadger,nomysql,nopgx,links -run '^TestExternalLinksAreAlive$$|^TestALinkIsDead' -count=1 -timeout 30m -v ./docs

fmt: $(GOLANGCI) ## format the code
	$(GOLANGCI) fmt ./...

clean: ## remove what was built
	rm -rf bin dist .bin .testhome .quickstart .chatbot.json .cluster internal/e2e/js/node_modules
