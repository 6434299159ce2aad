#!/bin/sh
# Run results.yml on this machine with act (https://github.com/nektos/act), as for a pull request of HEAD to $1.
# Further arguments go to act. No container is used: act works in a fresh clone below its own cache.
set -eu
root=$(git rev-parse --show-toplevel)
base=$(git rev-parse --verify --quiet "${1:-}^{commit}") || { echo "There is no revision ${1:-} here: make run-workflow BASE=REVISION." >&2; exit 1; }
head=$(git rev-parse HEAD)
command -v act >/dev/null || { echo "act is not installed: see docs/pull-requests.md." >&2; exit 1; }
cache=${XDG_CACHE_HOME:-$HOME/.cache}/act
repository=local/derm-t2im

# setup-python takes a Python that lies where it keeps its own, and fails where pip has cached nothing.
python=${PYTHON:-python3.11}
tools=$cache/tool_cache/Python/$("$python" -c 'import platform; print(platform.python_version())')
if [ ! -e "$tools" ]; then
    case $(uname -m) in arm64 | aarch64) kind=arm64 ;; *) kind=x64 ;; esac
    mkdir -p "$tools"
    ln -s "$("$python" -c 'import sys; print(sys.base_prefix)')" "$tools/$kind"
    touch "$tools/$kind.complete"
fi
mkdir -p "$("$python" -m pip cache dir)"

event=$(mktemp)
trap 'rm -f "$event"' EXIT
cat >"$event" <<EOF
{"repository": {"full_name": "$repository", "default_branch": "main"},
 "pull_request": {"number": 1, "base": {"sha": "$base", "ref": "main"}, "head": {"sha": "$head", "ref": "proposal"}}}
EOF
shift
# checkout asks for a token and fetches from GitHub: it gets a word that opens nothing, and this repository.
act pull_request --workflows "$root/.github/workflows/results.yml" --eventpath "$event" \
    --platform ubuntu-latest=-self-hosted --action-cache-path "$cache" \
    --env "GITHUB_REPOSITORY=$repository" --secret GITHUB_TOKEN=of-no-use \
    --env GIT_CONFIG_COUNT=1 --env "GIT_CONFIG_KEY_0=url.file://$root.insteadOf" \
    --env "GIT_CONFIG_VALUE_0=https://github.com/$repository" \
    --artifact-server-path "$root/reports/act" --artifact-server-addr 127.0.0.1 --cache-server-addr 127.0.0.1 "$@"
echo "The comment, the page and the JSON: $root/reports/act/1/comparison/comparison.zip"
