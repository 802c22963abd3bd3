#!/usr/bin/env bash
# upgrade.sh COMMIT [FLAGS OF CHAOS…]: builds the program as it was at that commit, and runs chaos with conductors of both
# side by side on the same records, each starting as the other after every restart.
set -euo pipefail

cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
from=$1
shift
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
git archive "$from" | tar -x -C "$tree"
printf 'upgrade from %s\n' "$(git log -1 --format='%h %s' "$from")"
older=$PWD/$target/upgrade
case $target in /*) older=$target/upgrade ;; esac
cargo build --manifest-path "$tree/Cargo.toml" --target-dir "$older" --locked -p kilonova
cargo build -p kilonova -p kilonova-tests --bin kilonova --bin chaos
"$target/debug/chaos" --quick --older "$older/debug/kilonova" "$@"
