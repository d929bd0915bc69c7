#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the build needs, on Debian 12 or Ubuntu 24.04, and nothing when it is there already.
#   tools/install_deps.sh         compiler, build tools and libraries
#   tools/install_deps.sh --dev   also clang, clang-format and the sanitizer runtimes
#   tools/install_deps.sh --aarch64   also a cross compiler and qemu; the libraries for arm64 are unpacked into
#                                     build/aarch64-libs, nothing of the machine's own is changed for them
set -euo pipefail

packages=(g++ make git cmake ninja-build pkg-config nlohmann-json3-dev libcli11-dev libfmt-dev libonig-dev
          libutf8proc-dev libxxhash-dev libyaml-cpp-dev libedit-dev libopenmpi-dev libboost-dev libhiredis-dev libgtest-dev
          redis-server curl xz-utils)
dev=no aarch64=no
libraries="$(cd "$(dirname "$0")/.." && pwd)/build/aarch64-libs"
case "${1:-}" in
  "") ;;
  --dev) dev=yes; packages+=(clang clang-format) ;;
  --aarch64) aarch64=yes; packages+=(g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user) ;;
  *) echo "install_deps.sh: got \"$1\", expected --dev, --aarch64 or nothing" >&2; exit 2 ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "install_deps.sh: no dpkg here; make sure that these are installed: ${packages[*]}" >&2
  exit 0
fi

is_installed() {
  [[ "$(dpkg-query -W -f='${Status}' "$1" 2>/dev/null)" == "install ok installed" ]]
}

updated=no
install_missing() {
  local missing=() package
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  local as_root=()
  if ((EUID != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "install_deps.sh: missing ${missing[*]}; install them as root" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  echo "== installing ${missing[*]}"
  if [[ $updated == no ]]; then
    "${as_root[@]}" apt-get update -q
    updated=yes
  fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

install_missing "${packages[@]}"
if [[ $dev == yes ]]; then
  # The runtimes come in a package named after clang's version: 14 on Debian 12, 18 on Ubuntu 24.04.
  version="$(clang -dumpversion | cut -d. -f1)"
  runtimes="$(clang -print-file-name=libclang_rt.fuzzer-x86_64.a)"
  resources="$(clang -print-resource-dir)"
  if [[ ! -e $runtimes && ! -e $resources/lib/linux/libclang_rt.fuzzer-x86_64.a ]]; then
    install_missing "libclang-rt-$version-dev"
  fi
fi

# The libraries for arm64, with a package list of their own: registering the architecture with dpkg would tie the
# versions of the machine's libraries to those of arm64.
unpack_arm64() {
  local wanted=(nlohmann-json3-dev libcli11-dev libfmt-dev libonig-dev libutf8proc-dev libxxhash-dev libyaml-cpp-dev
                libgtest-dev)
  local apt="$libraries.apt" package
  rm -rf "$apt" "$libraries.new"
  mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,packages} "$libraries.new"
  local options=(-q -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o "Dir::State=$apt/state"
                 -o Dir::State::status=/dev/null -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User="$(id -un)")
  echo "== unpacking libraries for arm64 into $libraries"
  apt-get "${options[@]}" update
  for package in "${wanted[@]}"; do  # and the shared libraries behind them, whose names carry versions
    echo "$package"
    apt-cache "${options[@]:1}" depends --important "$package" |
      sed -nE 's/^ *Depends: (lib(fmt|onig|utf8proc|xxhash|yaml-cpp)[0-9.-]*)$/\1/p'
  done | sort -u >"$apt/names"
  (cd "$apt/packages" && xargs apt-get "${options[@]}" download <"$apt/names")
  for package in "$apt"/packages/*.deb; do dpkg -x "$package" "$libraries.new"; done
  rm -rf "$libraries" "$apt"
  mv "$libraries.new" "$libraries"
}
if [[ $aarch64 == yes && ! -d $libraries ]]; then unpack_arm64; fi
