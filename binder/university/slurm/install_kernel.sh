#!/usr/bin/env bash
# Offer the course's environment as a kernel in your own JupyterHub, such as a computing centre's.
# Run it once, on a login node, in the course's folder. Options go to tools/create_venv.py;
# COURSE_THREADS=4 before the command is for sessions with four processors.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

python=${COURSE_PYTHON:-.venv/bin/python}
[ -x "$python" ] || python3 tools/create_venv.py "$@"

# A login node cannot know how many processors a later session gets, so it is one thread unless told.
"$python" -m ipykernel install --user --name bayesian-deep-learning \
  --display-name "Bayesian deep learning" --env OMP_NUM_THREADS "${COURSE_THREADS:-1}"
