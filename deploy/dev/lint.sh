#!/usr/bin/env bash
# Every check that needs no test run, quickest first. All of them run; each that fails shows its output, and the
# exit code says whether any did. Tools come from bootstrap.sh lint.
set -uo pipefail

cd "$(dirname "$0")/../.." || exit 1
PATH=$PWD/.tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
export PATH
python=.tools/venv/bin/python
baseline=proto/baseline.binpb
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failures=0

check() {
  local name=$1
  shift
  if "$@" >"$log" 2>&1; then
    printf 'lint: %-12s ok\n' "$name"
  else
    printf 'lint: %-12s FAILED: %s\n' "$name" "$*"
    cat "$log"
    failures=$((failures + 1))
  fi
}

# The crates of other platforms are in the lock too; cargo deny reads them all, and must not reach for the network.
deny() {
  cargo fetch --locked && cargo deny --offline --locked --log-level error check --hide-inclusion-graph bans licenses sources
}

breaking() {
  if [ ! -e $baseline ]; then
    echo "$baseline is missing: make proto-baseline creates it from the protos as they are."
    return 1
  fi
  buf breaking --against $baseline
}

python_files() { "$python" -m ruff check tests/clients/python tests/bench tests/mutants && "$python" -m ruff format --check tests/clients/python tests/bench tests/mutants; }

# Connections are made in common/rpc, where keep-alive, deadlines and health are; the command line is a client like any other.
channels() { ! grep -rnE 'tonic::transport' services/{api,conductor,scheduler,compute,volume}/src common/runtime/src; }

# Vetting needs what is generated.
go_files() (
  cd tests/clients/go || return
  unformatted=$(gofmt -d ./*.go)
  echo "$unformatted"
  go generate && go vet . && [ -z "$unformatted" ]
)

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --keep-going; }

check rustfmt cargo fmt --all --check
check shellcheck shellcheck .ci/run deploy/dev/*.sh deploy/dev/protoc
check python python_files
check go go_files
check buf-lint buf lint
check buf-format buf format --diff --exit-code
check buf-breaking breaking
check cargo-deny deny
check clippy cargo clippy --workspace --all-targets --locked --keep-going -- -D warnings
check rustdoc documentation
check channels channels

[ $failures = 0 ]
