#!/bin/sh
# Make a virtual environment with exactly what requirements.lock names, and the project in it.
set -eu
venv=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || {
    echo "derm-t2im needs Python 3.11, 3.12 or 3.13; $python is $("$python" -V). Set PYTHON=python3.12, say." >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
bin=$(cd "$venv/bin" && pwd)
VIRTUAL_ENV=$(dirname "$bin")
export VIRTUAL_ENV
"$bin/python" -m pip install --quiet --disable-pip-version-check "uv>=0.9"
uv="$bin/python -m uv"
$uv pip sync --quiet --compile-bytecode requirements.lock
$uv pip install --quiet --no-deps --no-build-isolation --editable .
# pip sync removes what the lock does not name, uv included: nothing here needs it any more.
sh "$(dirname "$0")/mongod.sh" "$VIRTUAL_ENV"
echo "Ready: $VIRTUAL_ENV"
