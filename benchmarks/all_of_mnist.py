"""Fit the autoencoder of the notebook to all of MNIST, longer than the notebook can.

    python -m benchmarks.all_of_mnist five     # as good as possible within five minutes
    python -m benchmarks.all_of_mnist ten      # within ten minutes, with a learnt prior
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
from torch.distributions import Independent, Normal

from benchmarks import measure
from benchmarks.baselines.vae import BOOK, nb
from course_utils.data import load_mnist

SETTINGS = {  # of fit_vae; the notebook's own setting is hidden=400, k=32, steps=1700
    "five": {"k": 40, "hidden": 500, "steps": 12_000},
    "ten": {"k": 40, "hidden": 500, "steps": 22_000, "together": 3000},  # steps with the prior
    "long": {"k": 40, "hidden": 500, "steps": 30_000},
}
COMPONENTS = 60  # of the learnt prior


def fitted(
    fit, x_train: torch.Tensor, x_test: torch.Tensor, *, together: int = 0, **settings
) -> dict:
    """Fit a model, then a prior; seconds, test ELBO, K = 500 bound, and active units."""
    start = time.perf_counter()
    vae = fit(seed=0, **settings)
    with torch.no_grad():
        codes = vae.posterior(nb.binarise(x_train))
    prior = Independent(Normal(torch.zeros(codes[0].shape[1]), 1.0), 1)
    if together:
        mixture = nb.mixture_prior(*codes, components=COMPONENTS)
        vae, prior = nb.train_together(vae, mixture, x_train, steps=together)
    seconds = time.perf_counter() - start
    elbo, bound = (nb.prior_scores(vae, {"": prior}, x_test, s)[""].mean(1) for s in (8, 500))
    return {
        "training_seconds": round(seconds, 1),
        "elbo": round(elbo[0].item(), 2),
        "bound_500": round(bound[1].item(), 2),
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
    found = fitted(fit, digits.x_train, x_test, **SETTINGS[which]) | {"settings": SETTINGS[which]}
    head = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
    code = measure.code_digest(Path(__file__), BOOK.source)
    run = {"date": head["date"], "versions": head["versions"], "code": code, "notebook": found}
    run["threads"] = torch.get_num_threads()
    runs = measure.load("all_of_mnist")["runs"] | {which: run}
    measure.write(measure.place("all_of_mnist"), head | {"runs": runs})
    print(run)


if __name__ == "__main__":
    main()
