#!/usr/bin/env bash
# Installs what the tests need on Debian 12. Safe to run at any time: what is there stays, and a run that finds
# everything takes well under a second. Nothing is written outside the package database and target/tools.
#
#   tests/support/setup.sh              every group
#   tests/support/setup.sh GROUP...     only these: rust packages kernel fsx azurite sdk
#
# Debian packages are pinned by the release of the machine (their versions are printed), the rest by exact version.
# A registry that cannot be reached is an error only when the tool it would give is missing.
set -euo pipefail

readonly FSX_VERSION=0.3.2
readonly AZURITE_VERSION=3.35.0
readonly KERNEL_PACKAGE=linux-image-cloud-amd64
readonly PACKAGES=(
  # what Rust needs to link, and downloads to be checked
  ca-certificates gcc libc6-dev
  # the data tools of suite.sh
  attr e2fsprogs fio fuse3 mount qemu-utils rsync util-linux xfsprogs
  # a judge of registries
  skopeo
  # the virtual machine of vm.sh
  busybox-static cpio kmod qemu-system-x86 xz-utils zstd
  # certificates with RSA keys, for tests/identity
  openssl
  # `make check` lints the scripts with it
  shellcheck
)
# No single step may hang a CI run: downloads here are small, and building fsx is the longest.
readonly STEP_LIMIT=900

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly tools=$root/target/tools

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
bounded() { timeout --kill-after=10 "$STEP_LIMIT" "$@"; }

# Runs a command as root: directly, or by sudo where that asks for no password.
as_root() {
  if [[ $EUID -eq 0 ]]; then
    bounded "$@"
  elif command -v sudo >/dev/null && sudo --non-interactive true 2>/dev/null; then
    bounded sudo --non-interactive "$@"
  else
    fail "root is needed for: $* (run this script as root, or once with sudo)"
  fi
}

# Refreshes the package lists, once a run. An unreachable mirror is reported by the step that needs it.
update_lists() {
  [[ -z ${lists_updated:-} ]] || return 0
  lists_updated=1
  as_root apt-get update -qq || say "the package lists could not be refreshed; trying with what is there"
}

is_installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

install_packages() {
  update_lists
  as_root env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
    fail "apt-get could not install: $*"
}

setup_rust() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1)
  have=$(rustc --version 2>/dev/null | cut -d ' ' -f 2) || true
  if ! command -v cargo >/dev/null || [[ -z $have ]]; then
    fail "Rust $wanted or later is needed and there is no cargo; install it with rustup, see https://rustup.rs"
  fi
  if [[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1) != "$wanted" ]]; then
    fail "Rust $wanted or later is needed and this is $have; run 'rustup update', see https://rustup.rs"
  fi
  say "rust $have"
}

setup_packages() {
  local missing
  # Twice: where a package came from another release, apt may take it away to make room for a sibling.
  for _ in first second; do
    missing=()
    for package in "${PACKAGES[@]}"; do
      is_installed "$package" || missing+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] || install_packages "${missing[@]}"
  done
  # shellcheck disable=SC2016  # the format is dpkg-query's, not the shell's
  say "$(dpkg-query -W -f '${Package} ${Version}, ' "${PACKAGES[@]}" | sed 's/, $//')"
}

# The kernel the virtual machine boots. The package is unpacked, not installed: installing would give this machine a
# boot kernel, which no test may do.
setup_kernel() {
  local dir=$tools/kernel package scratch
  if [[ ! -e $dir/package ]]; then
    update_lists
    # The name without a version is a metapackage; what it depends on is the kernel.
    package=$(apt-cache depends --important "$KERNEL_PACKAGE" | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
    [[ -n $package ]] || fail "no kernel package behind $KERNEL_PACKAGE in the package lists"
    mkdir -p "$tools"
    scratch=$(mktemp -d "$tools/kernel.XXXXXX")
    # apt's download user cannot write here; as root it says so for every file, which is noise.
    (cd "$scratch" && bounded apt-get download -qq -o APT::Sandbox::User=root "$package") ||
      { rm -rf "$scratch"; fail "could not download $package"; }
    mkdir "$scratch/root"
    dpkg-deb -x "$scratch"/*.deb "$scratch/root"
    basename "$scratch"/*.deb .deb >"$scratch/root/package"
    rm -rf "$dir"
    mv "$scratch/root" "$dir"
    rm -rf "$scratch"
  fi
  say "kernel $(cat "$dir/package")"
}

setup_fsx() {
  if [[ $("$tools/bin/fsx" --version 2>/dev/null) != "fsx $FSX_VERSION" ]]; then
    say "building fsx $FSX_VERSION"
    bounded cargo install --quiet --locked --version "$FSX_VERSION" --root "$tools" fsx || fail "could not install fsx"
  fi
  say "fsx $FSX_VERSION"
}

setup_azurite() {
  local dir=$tools/azurite
  # Another source of Node than Debian's may bring npm in the same package: ask for the commands.
  command -v node >/dev/null || install_packages nodejs
  command -v npm >/dev/null || install_packages npm
  if ! grep -qs "\"version\": \"$AZURITE_VERSION\"" "$dir/node_modules/azurite/package.json"; then
    say "installing azurite $AZURITE_VERSION"
    mkdir -p "$dir"
    bounded npm install --prefix "$dir" --no-audit --no-fund --loglevel=error "azurite@$AZURITE_VERSION" >/dev/null ||
      fail "could not install azurite"
  fi
  say "azurite $AZURITE_VERSION on node $(node --version)"
}

# The service's own SDK for Python, with what it needs, apart from the system's packages.
setup_sdk() {
  local dir=$tools/sdk wanted=$root/tests/external/requirements.txt
  if ! cmp -s "$wanted" "$dir/requirements.txt"; then
    say "installing the SDK for Python"
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3 python3-venv
    mkdir -p "$tools"
    rm -rf "$dir"
    # A virtual environment does not survive being moved, so that the mark of a whole one comes last.
    bounded python3 -m venv "$dir" || fail "could not make a virtual environment"
    bounded "$dir/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$wanted" ||
      fail "could not install the SDK for Python"
    cp "$wanted" "$dir/requirements.txt"
  fi
  say "$(sed -n 's/^\(azure-[a-z-]*\)==/\1 /p' "$wanted" | paste -sd ,) on $("$dir/bin/python" --version)"
}

groups=("$@")
[[ $# -gt 0 ]] || groups=(rust packages kernel fsx azurite sdk)
for group in "${groups[@]}"; do
  case $group in
    rust | packages | kernel | fsx | azurite | sdk) "setup_$group" ;;
    *) fail "unknown group '$group'; the groups are: rust packages kernel fsx azurite sdk" ;;
  esac
done
