# Every target only calls go and the scripts beside this file.
#
#   make test          everything that must pass; installs what it needs (root, apt)
#   make test CI=true  the same with every test named; see .ci/run

GO       ?= go
VERSION  ?=
FUZZTIME ?= 20s

# Systems that the program has to build for, without cgo.
SYSTEMS = linux/amd64 linux/arm64 linux/arm linux/mips \
          darwin/arm64 freebsd/amd64 openbsd/amd64 windows/amd64

# Root can have everything that the tests need, so that a skip is a failure.
ifeq ($(shell id -u),0)
FAIRLEAD_NO_SKIP ?= 1
endif
export FAIRLEAD_NO_SKIP

.PHONY: build test check cross lint fuzz soak bench microbench man clean

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.built=$(VERSION)' -o dist/fairlead ./cmd/fairlead

test:
	packaging/test-deps
	$(MAKE) --no-print-directory check cross
	$(GO) test -race -timeout 15m $(if $(CI),-v) ./...

check:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	docs/check

cross:
	@for system in $(SYSTEMS); do \
		echo "building for $$system"; \
		GOOS=$${system%/*} GOARCH=$${system#*/} CGO_ENABLED=0 $(GO) build -buildvcs=false ./... || exit 1; \
	done

lint:
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

# Each fuzz target for FUZZTIME, one after the other.
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

# The long variants of the tests that run the program.
soak:
	$(GO) test -race -timeout 30m ./cmd/fairlead -run 'Transfers|Reloads|KilledWrite|Idle' -soak

# fairlead beside its peers (docs/performance.md); flags in BENCH, such as -quick.
bench:
	bench/deps
	$(GO) run ./bench $(BENCH)

microbench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

man:
	$(GO) test ./cmd/fairlead -run '^TestManPagesAreThoseOfTheHelp$$' -man

clean:
	rm -rf dist
