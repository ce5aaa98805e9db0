"""Plumbing of the course: data, splits, devices and threads, plots, metrics, exercise checks.

Import it before torch. PyTorch's threads wait for work by spinning, which halves the speed of a
notebook as soon as another process wants the same core; the wait policy is read once, when torch
loads. ``benchmarks/THREADS.md`` has the figures.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
