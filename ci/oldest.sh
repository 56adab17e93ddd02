#!/usr/bin/env bash
# Run the tests with the oldest versions of all dependencies that pyproject.toml promises, on the oldest Python.
# PYTHON names an interpreter (default: python3.11). Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/tool"
"$work/tool/bin/pip" install --quiet uv
"$work/tool/bin/uv" venv --quiet --python "${PYTHON:-python3.11}" "$work/env"
"$work/tool/bin/uv" pip install --quiet --python "$work/env/bin/python" --resolution lowest-direct -e ".[test]" \
    "pyparsing>=3.1,<3.3" "scipy>=1.15,<1.16" # later ones warn about the matplotlib and the scikit-learn of then
"$work/tool/bin/uv" pip list --python "$work/env/bin/python"
"$work/env/bin/python" -m pytest -p no:cacheprovider "$@"
