#!/usr/bin/env bash
# Makes the virtual environment named by $1 with the first Python >= 3.11 found (or $PYTHON), and says what to do if it cannot.
set -euo pipefail
venv=$1
is_new_enough='import sys; raise SystemExit(sys.version_info < (3, 11))'

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

python=""
for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c "$is_new_enough" >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: no Python 3.11 or newer was found (looked for: ${PYTHON:-python3, python3.14 ... python3.11, python}): install one, or name it: make PYTHON=/path/to/python" >&2
    exit 2
fi

# Debian and Ubuntu ship Python without ensurepip; their own pip, where it is installed, can still fill the environment.
if ! log=$("$python" -m venv --clear "$venv" 2>&1); then
    if ! { "$python" -m venv --clear --without-pip "$venv" && "$python" -m pip --python "$venv/bin/python" install --quiet pip; } >/dev/null 2>&1; then
        rm -rf "$venv"
        case $log in
            *ensurepip* | *venv*) echo "error: $python cannot make a virtual environment: on Debian or Ubuntu run: sudo apt-get install python3-venv" >&2 ;;
            *) echo "error: $python cannot make a virtual environment: $log" >&2 ;;
        esac
        exit 2
    fi
fi
