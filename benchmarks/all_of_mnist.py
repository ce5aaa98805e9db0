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
from pathlib import Path

import course_utils  # noqa: F401 - before torch: it decides how threads wait

# isort: split
import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO

from benchmarks import measure
from benchmarks.baselines.vae import BOOK, StockVae, nb
from course_utils.data import load_mnist
from course_utils.runtime import set_threads

SETTINGS = {  # of fit_vae; the notebook's own setting is hidden=400, k=32, steps=1700
    "five": {"k": 40, "hidden": 500, "steps": 12_000},
    "long": {"k": 40, "hidden": 500, "steps": 30_000},
}


def fit_stock(x_train: torch.Tensor, epochs: int) -> StockVae:
    """Ten epochs of SVI with Adam at 0.001 and batches of 256, as in the tutorial."""
    pyro.clear_param_store()
    vae = StockVae(x_train.shape[1])
    svi = SVI(nb.model, nb.guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    for x in nb.minibatches(x_train, 256, epochs * (len(x_train) // 256)):
        svi.step(vae, nb.binarise(x), 50)
    return vae


def score(vae, x_test: torch.Tensor, seconds: float, processor: float) -> dict:
    """Test ELBO, K = 500 bound and active units of a fitted model."""
    distortion, rate = vae.terms(x_test)
    return {
        "training_seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "elbo": round(-(distortion + rate).mean().item(), 2),
        "rate": round(rate.mean().item(), 2),
        "bound_500": round(vae.bound(x_test, 500).mean().item(), 2),
        "active_units": nb.active_units(vae, x_test),
    }


def timed(function, *args, **kwargs):
    """The result of a call, its wall-clock seconds and its processor seconds (all threads)."""
    start, processor = time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - start, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=["equal", "five", "long"])
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    threads = set_threads(arguments.threads)
    digits = load_mnist(full=True)
    torch.manual_seed(0)
    x_val, x_test = nb.binarise(digits.x_val), nb.binarise(digits.x_test)
    found = {}
    if arguments.which == "equal":
        stock, seconds, processor = timed(fit_stock, digits.x_train, 10)
        found["stock"] = score(stock, x_test, seconds, processor)
        _, pilot, _ = timed(nb.fit_vae, digits.x_train, x_val, k=32, seed=0, steps=200)
        steps = int(0.9 * seconds / pilot * 200)  # a margin, so that ours is not given more time
        settings = {"k": 32, "steps": steps}
    else:
        settings = SETTINGS[arguments.which]
    vae, seconds, processor = timed(nb.fit_vae, digits.x_train, x_val, seed=0, **settings)
    found["notebook"] = score(vae, x_test, seconds, processor) | {"settings": settings}
    head = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
    found |= {key: head[key] for key in ("date", "versions")} | {"threads": threads}
    found["code"] = measure.code_digest(Path(__file__), BOOK.source)
    runs = measure.load("all_of_mnist")["runs"] | {arguments.which: found}
    measure.write(measure.place("all_of_mnist"), head | {"runs": runs})
    print(found)


if __name__ == "__main__":
    main()
