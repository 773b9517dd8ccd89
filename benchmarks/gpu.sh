#!/bin/sh
# All that is measured on a GPU, in ten minutes at most. Results: gpu.json and gpu.md in --out (else $OUT, else ./gpu).
#
#   benchmarks/gpu.sh                                              on the machine with the GPU
#   benchmarks/gpu.sh --dry-run --device cpu --seconds 120 --out dry   shows without one that every part works
#
# Needs Python with PyTorch and the package's dependencies (PYTHON=... chooses one); pytest for the tests.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$here")
python=${PYTHON:-}
if [ -z "$python" ]; then
  if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; else python=python3; fi
fi
PYTHONPATH="$root/src:$here${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
exec "$python" "$here/gpu.py" "$@"
