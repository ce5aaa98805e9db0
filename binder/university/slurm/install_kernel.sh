#!/usr/bin/env bash
# Offer the course's environment as a kernel in your own JupyterHub, such as a computing centre's.
# Run it once, on a login node, in the course's folder. Options go to tools/environment.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

python=${COURSE_PYTHON:-.venv/bin/python}
[ -x "$python" ] || python3 tools/environment.py "$@"

# Shared nodes: as many threads as Slurm gives, one where it says nothing.
"$python" -m ipykernel install --user --name bayesian-deep-learning \
  --display-name "Bayesian deep learning" --env OMP_NUM_THREADS "${SLURM_CPUS_PER_TASK:-1}"
