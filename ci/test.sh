#!/usr/bin/env bash
# Run all that CI runs: the checks, the loops in C under sanitizers, CuPy's tests on a stand-in, then both commands of the
# README, to the letter. This happens in a copy of the working tree, so that a developer's .venv stays as it is. All
# libraries that the tests can use on a CPU are installed there, so that only the tests of a GPU are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -z "${NNBACKEND_DATA:-}" ] && [ -d ../shared/data/mnist ]; then
    NNBACKEND_DATA=$(cd ../shared/data && pwd)
    export NNBACKEND_DATA
fi

# Copy tracked and new files, but no ignored and no deleted files. The clone may belong to another user.
folder=$(mktemp -d)
copy=$folder/tree
mkdir "$copy"
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
git -c safe.directory='*' ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
    xargs -0 cp --parents -t "$copy"
cp -r "$copy" "$folder/newcomer"
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

# the commands are the two lines of the README that make an environment
mapfile -t commands < <(grep '^python3 -m venv ' README.md)
[ "${#commands[@]}" -eq 2 ]

# These take one processor, and the compiler beside them takes another. The first command works as for a newcomer, who has
# the embedded sample only.
{
    .venv/bin/mypy
    printf '\n$ %s\n' "${commands[0]}"
    cd "$folder/newcomer"
    env -u NNBACKEND_DATA bash -euo pipefail -c "${commands[0]}"
} >"$folder/output" 2>&1 &
beside=$!

printf '\n$ ci/sanitize.sh\n'
PYTHON=.venv/bin/python bash ci/sanitize.sh

wait "$beside" || failed=$?
cat "$folder/output"
[ "${failed:-0}" -eq 0 ]

# Run CuPy's tests on a stand-in for CuPy, which refuses what a GPU forbids. On a GPU, `ci/gpu.sh` runs them. Those in
# tests/backends/cupy bring the stand-in themselves.
printf '\n$ pytest -p cuda_standin -k cupy\n'
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PYTHONPATH=tests .venv/bin/python -m pytest -p cuda_standin -n 2 -k cupy -q \
    --ignore=tests/backends/cupy

# two processes of tests share the processors, so each computes with one thread; a test that hangs is named instead of
# ending the whole run
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -n 2 --timeout=600 --durations=15"
printf '\n$ %s\n' "${commands[1]}"
bash -euo pipefail -c "${commands[1]}"
