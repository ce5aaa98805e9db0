"""Fit the autoencoder of the notebook to all of MNIST, beside Pyro's stock one.

    python -m benchmarks.all_of_mnist equal    # as long as ten epochs of the stock VAE take
    python -m benchmarks.all_of_mnist five     # as good as possible within five minutes
    python -m benchmarks.all_of_mnist long     # without a time limit

50,000 training digits, 10,000 for validation, scores on all 10,000 test digits, sampled
binarisation (validation and test fixed), nats per image. Downloads MNIST once. The result is stored
in ``all_of_mnist.json`` beside this file; each mode keeps its own date, versions and threads.
(``results/vae_full.json`` is another experiment: ``benchmarks.baselines.vae --size full``.)
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.baselines.vae import BOOK, nb, stock
from course_utils.data import load_mnist
from course_utils.runtime import set_threads

SETTINGS = {  # of fit_vae; the notebook's own setting is hidden=400, k=32, steps=1700
    "five": {"k": 40, "hidden": 500, "steps": 12_000},
    "long": {"k": 40, "hidden": 500, "steps": 30_000},
}


def fitted(fit, x_test: torch.Tensor, **settings) -> dict:
    """Fit a model; its wall-clock and processor seconds, test ELBO, K = 500 bound, active units."""
    start, processor = time.perf_counter(), time.process_time()
    vae = fit(seed=0, **settings)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    distortion, rate = vae.terms(x_test)
    return {
        "training_seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),  # of all threads
        "elbo": round(-(distortion + rate).mean().item(), 2),
        "rate": round(rate.mean().item(), 2),
        "bound_500": round(vae.bound(x_test, 500).mean().item(), 2),
        "active_units": nb.active_units(vae, x_test),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["equal", *SETTINGS])
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    threads = set_threads(given.threads)
    digits = load_mnist(full=True)
    torch.manual_seed(0)
    x_val, x_test = nb.binarise(digits.x_val), nb.binarise(digits.x_test)
    ours = partial(nb.fit_vae, digits.x_train, x_val)
    settings, found = SETTINGS.get(given.which), {}
    if not settings:
        found["stock"] = fitted(lambda seed: stock(digits.x_train, x_val, seed, 10, 0)[0], x_test)
        pilot = measure.seconds(lambda: ours(k=32, seed=0, steps=200))
        # A margin, so that ours is not given more time.
        steps = int(0.9 * found["stock"]["training_seconds"] / pilot * 200)
        settings = {"k": 32, "steps": steps}
    found["notebook"] = fitted(ours, x_test, **settings) | {"settings": settings}
    head = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
    found |= {key: head[key] for key in ("date", "versions")} | {"threads": threads}
    found["code"] = measure.code_digest(Path(__file__), BOOK.source)
    runs = measure.load("all_of_mnist")["runs"] | {given.which: found}
    measure.write(measure.place("all_of_mnist"), head | {"runs": runs})
    print(found)


if __name__ == "__main__":
    main()
