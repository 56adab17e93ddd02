#!/usr/bin/env bash
# What a CI machine runs: the checks, the loops in C under sanitizers, CuPy's tests on a stand-in, then both commands of
# the README, to the letter. All of it happens in a copy of the working tree, so that a developer's .venv stays as it is.
# Everything that the tests can use on a CPU is installed there, so that only the GPU cases are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${NNBACKEND_DATA:-}" ] && [ -d ../shared/data/mnist ]; then
    NNBACKEND_DATA=$(cd ../shared/data && pwd)
    export NNBACKEND_DATA
fi

# tracked and new files, without those that git ignores or that are deleted; the clone may be another user's
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
    xargs -0 cp --parents -t "$copy"
cd "$copy"

"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet "${TORCH:-torch==2.13.0}" pandas polars
.venv/bin/python -m pip install --quiet -e ".[all]"
# a page is drawn on with the mouse where there is a browser; without these packages its test is skipped
if command -v node && command -v npm && command -v chromium; then
    npm install --silent --no-audit --no-fund --prefix "$copy/.web" onnxruntime-web@1 puppeteer-core@25 &&
        export NNBACKEND_NODE_MODULES="$copy/.web/node_modules"
fi >/dev/null || true

.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy

printf '\n$ ci/sanitize.sh\n'
PYTHON=.venv/bin/python bash ci/sanitize.sh

# CuPy's tests, with a stand-in for CuPy that knows what a GPU forbids; on a GPU `ci/gpu.sh` runs them
printf '\n$ pytest -p cuda_standin -k cupy\n'
PYTHONPATH=tests .venv/bin/python -m pytest -p cuda_standin -n 2 -k cupy -q

# the commands are the two lines of the README that begin by making an environment
mapfile -t commands < <(grep '^python3 -m venv ' README.md)
[ "${#commands[@]}" -eq 2 ]
printf '\n$ %s\n' "${commands[0]}"
env -u NNBACKEND_DATA bash -euo pipefail -c "${commands[0]}" # a newcomer has the embedded sample

# coverage makes the tests take about 1.6 times the time of a processor, and a second process makes up for it
export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -n 2 --cov --cov-report=term:skip-covered"
printf '\n$ %s\n' "${commands[1]}"
bash -euo pipefail -c "${commands[1]}"
