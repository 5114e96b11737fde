#!/usr/bin/env bash
# Install edgecc, or a newer one, on Raspberry Pi OS (64-bit, Bookworm or later), from a clone:
#   sudo deploy/install.sh [--dry-run] [--prefix DIR] [--node NAME]
# --dry-run  print what would be done, and do nothing
# --prefix   put all files below DIR, as for an image: no packages, no user, no service
# --node     the node's name in topics; default: the host's name
# What is there stays: run again, it renews the program and the unit, never the configuration.
set -euo pipefail

prefix='' node='' dry=false
packages=(python3-venv mosquitto mosquitto-clients)
repository=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

run() {
    if $dry; then echo "would run: $*"; else "$@"; fi
}

main() {
    options "$@"
    check_machine
    if [ -z "$prefix" ]; then
        check_root
        install_packages
        add_user
    fi
    install_program
    install_configuration
    install_unit
    say_what_is_left
}

options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --dry-run) dry=true ;;
        --prefix) prefix=${2:?--prefix needs a folder}; shift ;;
        --node) node=${2:?--node needs a name}; shift ;;
        --help) sed -n '2,7s/^# //p' "$0"; exit ;;
        *) fail "unknown option $1; see --help" ;;
        esac
        shift
    done
    node=${node:-$(uname -n | cut -d. -f1 | tr '[:upper:]_' '[:lower:]-')}
    [[ $node =~ ^[a-z0-9-]{1,64}$ ]] || fail "node $node: use 1 to 64 of a-z, 0-9 and '-' (--node)"
}

check_machine() {
    local machine userland python
    machine=$(uname -m)
    # A 64-bit kernel may carry a 32-bit system, as older images of Raspberry Pi OS do.
    userland=$(dpkg --print-architecture 2>/dev/null) || fail "no dpkg: this is for Debian's kin"
    case $machine/$userland in
    aarch64/arm64 | x86_64/amd64) ;;
    *) fail "this system is $userland on $machine: numpy, torch and LiteRT have no wheels for" \
        "32-bit ones; install Raspberry Pi OS (64-bit)" ;;
    esac
    constraints=$repository/deploy/constraints-$machine.txt
    python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "no python3"
    [[ $python =~ ^3\.(1[1-9]|[2-9][0-9])$ ]] ||
        fail "Python $python is too old, 3.11 is needed: install Raspberry Pi OS Bookworm or later"
}

check_root() {
    $dry || [ "$(id -u)" = 0 ] || fail "needs root: sudo $0 (or --dry-run, or --prefix DIR)"
}

install_packages() {
    local package missing=()
    for package in "${packages[@]}"; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    [ ${#missing[@]} = 0 ] && return
    run apt-get update -qq
    run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
}

add_user() {
    getent passwd edgecc >/dev/null && return
    run useradd --system --user-group --home-dir /var/lib/edgecc --shell /usr/sbin/nologin edgecc
}

install_program() {
    local work=/var/tmp/edgecc-install pip=$prefix/opt/edgecc/bin/pip
    [ -x "$pip" ] || run python3 -m venv "$prefix/opt/edgecc"
    # A copy, so that building leaves nothing of root's in the clone; and not in /tmp, which may be
    # memory: torch alone is 100 MB.
    run rm -rf "$work"
    run mkdir -p "$work"
    run cp -r "$repository/edgecc" "$repository/pyproject.toml" "$repository/README.md" \
        "$repository/LICENSE" "$work"
    run env TMPDIR=/var/tmp "$pip" install --quiet --no-cache-dir --disable-pip-version-check \
        --only-binary=:all: -c "$constraints" "${work}[cbor]"
    # The same version may have other code.
    run "$pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$work"
    run rm -rf "$work"
}

install_configuration() {
    local folder=$prefix/etc/edgecc group=()
    [ -n "$prefix" ] || group=(-g edgecc)
    run install -d "${group[@]}" -m 750 "$folder"
    if [ ! -e "$folder/edgecc.yaml" ]; then
        run install "${group[@]}" -m 640 "$repository/deploy/edgecc.yaml" "$folder/edgecc.yaml"
        run sed -i "1,2d; s/NODE/$node/" "$folder/edgecc.yaml"
    fi
    if [ ! -e "$folder/secrets.yaml" ]; then
        run install "${group[@]}" -m 640 /dev/null "$folder/secrets.yaml"
    fi
}

install_unit() {
    run install -D -m 644 "$repository/deploy/edgecc.service" \
        "$prefix/etc/systemd/system/edgecc.service"
    [ -z "$prefix" ] || return 0
    if [ ! -d /run/systemd/system ]; then
        echo "systemd does not run here: start edgecc by hand, as the unit does"
        return
    fi
    run systemctl daemon-reload
    run systemctl enable --quiet edgecc
    run systemctl try-restart edgecc
}

say_what_is_left() {
    $dry && return
    echo "$("$prefix/opt/edgecc/bin/edgecc" --version) is installed below $prefix/"
    [ -z "$prefix" ] || return 0
    echo "  edit /etc/edgecc/edgecc.yaml: input.kind and input.shape are what your samples are"
    echo "  sudo systemctl start edgecc && journalctl -u edgecc -f"
    if ! grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
        echo "  deploy/README.md, section 1: this kernel does not enforce the unit's MemoryMax yet"
    fi
}

main "$@"
