# Chancery's commands. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO    ?= go
TAGS  := goolm,sqlite_fts5
BIN   := bin/chancery
# The longest time that one package's tests may take.
TEST_TIMEOUT ?= 25m
# The packages with browser tests.
BROWSERS := ./calls ./clientapi ./cmd/chancery
# How long each fuzz target and the soak run.
FUZZ_TIME ?= 10m
SOAK_TIME ?= 30m
# How long the monkey plays, and what else go test is told: -race.
MONKEY_TIME ?= 30m
MONKEY_FLAGS ?=
# How many messages the encryption test sends.
ENCRYPTION_MESSAGES ?= 2000

# Everything that goes into the binary: a target older than one of these is built again.
SOURCES := $(shell find . \( -name node_modules -o -name .git \) -prune -o \( -name '*.go' -o -name '*.sql' -o -name go.mod -o -name go.sum \) -print)
# The demo's page.
PAGE    := cmd/chancery/demo
PAGE_IN := $(wildcard $(PAGE)/*.js $(PAGE)/*.css $(PAGE)/*.html $(PAGE)/package-lock.json) .ci/page

.DEFAULT_GOAL := help
.PHONY: help build page demo prepare test test-go test-agree test-counts test-oracle vet fuzz soak soak-talk soak-calls monkey encryption bench sample clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(BIN) ## the binary, in bin/chancery

$(BIN): $(SOURCES) $(PAGE)/dist/.built
	@echo "building $@ (the first time most of it is SQLite's C code: a minute or two)"
	@mkdir -p bin
	@$(GO) build -v -tags $(TAGS) -o $@ ./cmd/chancery 2>&1 | awk '{ n++; if (n % 25 == 0 || /sqlite3|chancery/) { print "  compiled " n ": " $$0; fflush() } if (!/^[a-z0-9.]+(\/[^ ]+)?$$/) { print; fflush() } }'

page: $(PAGE)/dist/.built ## the demo's page, bundled

$(PAGE)/dist/.built: $(PAGE_IN)
	.ci/page

demo: build ## two ministries in one terminal, with a page each
	@$(BIN) demo

prepare: ## install what the tests need and miss (Chromium, PostgreSQL, npm packages)
	.ci/prepare

vet: ## go vet and gofmt
	@bad=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$bad" || { echo "not gofmt-ed: $$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags $(TAGS) ./...

test: prepare vet build ## everything: Go tests with the race detector on both databases, and the browsers
	.ci/postgres $(MAKE) --no-print-directory test-go

# Browsers encode video in software and turn it down when the processor is busy: they come last, one at a time. What fails among them is
# tried once more, and said; what fails twice has failed.
test-go: ## the Go tests on the databases that are there, then the browsers
	$(GO) test -race -tags $(TAGS) -timeout $(TEST_TIMEOUT) -skip '^TestBrowser|^TestThreeServersAgree$$' ./...
	$(MAKE) --no-print-directory test-agree test-counts test-oracle
	@for package in $(BROWSERS); do \
		try="$(GO) test -tags $(TAGS) -timeout $(TEST_TIMEOUT) -count 1 -run ^TestBrowser $$package"; echo "$$try"; \
		$$try || { echo "the browsers' tests of $$package failed, and are tried once more"; $$try; }; \
	done

test-agree: ## three room servers in random partitions: the same state in the end; and not if state resolution is broken
	$(GO) test -tags $(TAGS) -count 1 -v -run '^TestThreeServersAgree$$' ./roomserver | grep -v '^=== '
	@mkdir -p bin; ! $(GO) test -tags $(TAGS),broken_resolution -count 1 -run '^TestThreeServersAgree$$' ./roomserver >bin/broken.log 2>&1 \
		|| { echo "with broken state resolution the servers agree all the same"; exit 1; }
	@grep -m 1 'the servers disagree' bin/broken.log || { cat bin/broken.log; exit 1; }
	@echo "so it fails with broken state resolution, as it must"

test-counts: ## how many statements and commits a message costs, without the race detector, which slows messages but not the database
	$(GO) test -tags $(TAGS) -count 1 -v -run '^TestCommitsAreShared$$|^TestStatementsOfAMessage$$' ./roomserver ./cmd/chancery | grep -E 'commits|statements|FAIL|^ok'

test-oracle: ## PDUs and authorisation rules beside a second implementation, which needs an experiment of the compiler
	GOEXPERIMENT=jsonv2 $(GO) test -tags $(TAGS) -count 1 -run TestOracle ./roomserver/pdu ./roomserver/auth

fuzz: ## every fuzz target side by side, FUZZ_TIME each (10m)
	.ci/fuzz $(FUZZ_TIME)

soak: soak-talk soak-calls ## the long tests, one after the other

soak-talk: ## two servers are killed, stopped and restarted under load for SOAK_TIME; the last line is the verdict
	CHANCERY_SOAK=$(SOAK_TIME) $(GO) test -tags $(TAGS) -timeout 0 -count 1 -v -run '^TestSoak$$' ./cmd/chancery

soak-calls: prepare ## eighteen clients and two browsers come and go in a call for SOAK_TIME, and the focus is killed; the last line is the verdict
	.ci/postgres env CHANCERY_SOAK_CALLS=$(SOAK_TIME) $(GO) test -tags $(TAGS) -timeout 0 -count 1 -v -run '^TestSoakCalls$$' ./cmd/chancery

monkey: prepare ## four to six browsers do random things in calls for MONKEY_TIME, and after each round everybody must know and get the same
	CHANCERY_MONKEY=$(MONKEY_TIME) $(GO) test $(MONKEY_FLAGS) -tags $(TAGS) -timeout 0 -count 1 -v -run '^TestMonkey$$' ./calls

encryption: prepare ## five people with three devices each talk encrypted while devices come and go and servers crash: everything has to be read
	.ci/postgres env CHANCERY_ENCRYPTION=$(ENCRYPTION_MESSAGES) $(GO) test -tags $(TAGS) -timeout 0 -count 1 -v -run '^TestBrowserEncryption$$' ./cmd/chancery

bench: ## every benchmark, with allocations
	$(GO) test -tags $(TAGS) -run '^$$' -bench . -benchmem ./...

sample: ## config.sample.yaml anew, from the comments of the Config structs
	$(GO) test -tags $(TAGS) ./cmd/chancery -run TestSample -update

clean: ## remove what was built
	rm -rf bin $(PAGE)/dist/assets $(PAGE)/dist/.built
