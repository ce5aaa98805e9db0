"""Fit the autoencoder of the notebook to all of MNIST, longer than the notebook can.

    python -m benchmarks.all_of_mnist five     # as good as possible within five minutes
    python -m benchmarks.all_of_mnist long     # without a time limit

50,000 training digits, 10,000 for validation, scores on all 10,000 test digits, sampled
binarisation (validation and test fixed), nats per image. Downloads MNIST once. The result is stored
in ``all_of_mnist.json`` beside this file; each mode keeps its own date, versions and threads. How
long Pyro's stock VAE takes on the same digits: ``benchmarks.baselines.vae --size full``.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.baselines.vae import BOOK, nb
from course_utils.data import load_mnist

SETTINGS = {  # of fit_vae; the notebook's own setting is hidden=400, k=32, steps=1700
    "five": {"k": 40, "hidden": 500, "steps": 12_000},
    "long": {"k": 40, "hidden": 500, "steps": 30_000},
}


def fitted(fit, x_test: torch.Tensor, **settings) -> dict:
    """Fit a model; its seconds, test ELBO, K = 500 bound, and active units."""
    start = time.perf_counter()
    vae = fit(seed=0, **settings)
    return {
        "training_seconds": round(time.perf_counter() - start, 1),
        "elbo": round(vae.elbo(x_test).mean().item(), 2),
        "bound_500": round(nb.bound(vae, x_test, 500).mean().item(), 2),
        "active_units": nb.active_units(vae, x_test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=SETTINGS)
    which = parser.parse_args().which
    digits = load_mnist(full=True)
    torch.manual_seed(0)
    x_val, x_test = nb.binarise(digits.x_val), nb.binarise(digits.x_test)
    fit = partial(nb.fit_vae, digits.x_train, x_val)
    found = fitted(fit, x_test, **SETTINGS[which]) | {"settings": SETTINGS[which]}
    head = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
    code = measure.code_digest(Path(__file__), BOOK.source)
    run = {"date": head["date"], "versions": head["versions"], "code": code, "notebook": found}
    run["threads"] = torch.get_num_threads()
    runs = measure.load("all_of_mnist")["runs"] | {which: run}
    measure.write(measure.place("all_of_mnist"), head | {"runs": runs})
    print(run)


if __name__ == "__main__":
    main()
