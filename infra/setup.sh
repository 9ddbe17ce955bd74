#!/usr/bin/env bash
# Make the two environments of the platform from the committed locks; install what is missing on the machine.
#
# Needs Debian 12 (or alike) with Python 3.11. As root, or with sudo, it installs missing packages through apt;
# otherwise it names the exact package and stops. Idempotent: a second run with unchanged locks does nothing.
# `infra/setup.sh test` installs what only the tests need as well: a browser.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

install_packages() {
    if [ "$(id -u)" = 0 ]; then run=""; elif sudo -n true 2>/dev/null; then run="sudo"; else
        say "missing: $*. Install with:  sudo apt-get install -y --no-install-recommends $*"
        exit 78
    fi
    say "installing $* (apt)"
    $run apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $run apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
java -version 2>&1 | grep -qE 'version "(17|21)' || missing+=(openjdk-17-jre-headless)
command -v python3.11 >/dev/null || missing+=(python3.11)
command -v python3.11 >/dev/null && python3.11 -c 'import ensurepip' 2>/dev/null || missing+=(python3.11-venv)
command -v setpriv >/dev/null || missing+=(util-linux)
command -v git >/dev/null || missing+=(git)
grep -q 'libgomp\.so\.1 ' <(/sbin/ldconfig -p) || missing+=(libgomp1) # LightGBM's threads
[ "${1:-}" != test ] || command -v chromium >/dev/null || missing+=(chromium)
[ "${#missing[@]}" = 0 ] || install_packages "${missing[@]}"

# Debian's is built with profile-guided and link-time optimisation: a request takes a twentieth less CPU than with one
# that was compiled plainly.
python=/usr/bin/python3.11
[ -x "$python" ] || python=python3.11

[ -x .venv-tools/bin/uv ] || { say "installing uv"; python3.11 -m venv .venv-tools && .venv-tools/bin/pip install -q uv; }

# sync ENVIRONMENT LOCK: make the environment hold exactly what the lock says.
sync() {
    local stamp="$1/.lock.sha256" sum
    sum=$(sha256sum "$2" | cut -d' ' -f1)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ]; then return; fi
    say "installing $1 from $2"
    [ -x "$1/bin/python" ] || .venv-tools/bin/uv venv -q --python "$python" "$1"
    .venv-tools/bin/uv pip sync -q --python "$1/bin/python" --compile-bytecode "$2"
    if [ "$1" = .venv ]; then
        .venv-tools/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
    fi
    printf '%s' "$sum" >"$stamp"
}
sync .venv infra/locks/platform.txt
sync .venv-airflow infra/locks/airflow.txt
