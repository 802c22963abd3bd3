#!/usr/bin/env bash
# Lint, cargo's tests, the process test, chaos in its quick form, and the Go client's, all of them even when one fails; the
# last line sums them up. A lint run counts as one failure or none. Tools come from bootstrap.sh test.
set -uo pipefail

cd "$(dirname "$0")/../.." || exit 1
PATH=$PWD/.tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
export PATH
target=${CARGO_TARGET_DIR:-target}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0

# stage STATUS FAILED-BEFORE: a command that failed without naming a failed test counts as one.
stage() {
  if [ "$1" != 0 ] && [ "$failed" = "$2" ]; then failed=$((failed + 1)); fi
}

deploy/dev/lint.sh
stage $? $failed

cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log"
status=${PIPESTATUS[0]} before=$failed
read -r p f s < <(awk '/^test result: / { p += $4; f += $6; s += $8 } END { print p + 0, f + 0, s + 0 }' "$log")
passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
stage "$status" "$before"

cargo build -p kilonova --locked && .tools/venv/bin/python tests/clients/python/run.py --kilonova "$target/debug/kilonova" | tee "$log"
status=$? before=$failed
read -r p f < <(awk '/^[0-9]+ passed, [0-9]+ failed$/ { p = $1; f = $3 } END { print p + 0, f + 0 }' "$log")
passed=$((passed + p)) failed=$((failed + f))
stage $status "$before"

cargo build -p kilonova -p kilonova-tests --bin kilonova --bin chaos --locked && "$target/debug/chaos" --quick
status=$? before=$failed
if [ $status = 0 ]; then passed=$((passed + 1)); fi
stage $status "$before"

binary=$(cd "$target/debug" && pwd)/kilonova
(cd tests/clients/go && go generate && KILONOVA_BIN=$binary go test -count=1 -v .) 2>&1 | tee "$log"
status=$? before=$failed
read -r p f s < <(awk '/^--- PASS: / { p++ } /^--- FAIL: / { f++ } /^--- SKIP: / { s++ } END { print p + 0, f + 0, s + 0 }' "$log")
passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
stage $status "$before"

printf '\n%d passed, %d failed, %d skipped\n' $passed $failed $skipped
[ $failed = 0 ]
