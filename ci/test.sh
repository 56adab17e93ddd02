#!/usr/bin/env bash
# What a CI machine runs, from a clean clone: the checks, then both commands of the README, to the letter.
# Everything the tests can use on a CPU is installed, so that only the GPU cases are skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

rm -rf .venv
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet "${TORCH:-torch==2.13.0}" ruff mypy pandas polars
.venv/bin/python -m pip install --quiet ".[all]"

.venv/bin/ruff format --check .
.venv/bin/ruff check .
.venv/bin/mypy

if [ -z "${NNBACKEND_DATA:-}" ] && [ -d ../shared/data/mnist ]; then
    NNBACKEND_DATA=$(cd ../shared/data && pwd)
    export NNBACKEND_DATA
fi

# CuPy's tests, with a stand-in for CuPy that knows what a GPU forbids; on a GPU `ci/gpu.sh` runs them
.venv/bin/python -m pip install --quiet -e ".[all]"
printf '\n$ pytest -p cuda_standin -k cupy\n'
PYTHONPATH=tests .venv/bin/python -m pytest -p cuda_standin -n 2 -k cupy -q

# the commands are the two lines of the README that begin by making an environment
mapfile -t commands < <(grep '^python3 -m venv ' README.md)
[ "${#commands[@]}" -eq 2 ]
printf '\n$ %s\n' "${commands[0]}"
env -u NNBACKEND_DATA bash -euo pipefail -c "${commands[0]}" # a newcomer has the embedded sample
printf '\n$ %s\n' "${commands[1]}"
bash -euo pipefail -c "${commands[1]}"
