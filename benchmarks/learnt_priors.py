"""Score the learnt priors of the notebook on autoencoders over five seeds, and leave parts out.

    python -m benchmarks.learnt_priors    # writes benchmarks/learnt_priors.json; about 20 minutes

The bundled digits, sampled binarisation (one for all seeds), one thread; scores on all 2,000 test
digits, nats per image. The control trains as many steps more as ``train_together``, by itself, with
N(0, I). The ablation fits three seeds again, each time with one part of ``fit_vae`` less.
"""

import time
from pathlib import Path

import torch
from torch.distributions import Independent, Normal

from benchmarks import measure
from benchmarks.baselines.vae import BOOK, LATENT, nb
from course_utils.data import load_mnist
from course_utils.runtime import seed_everything

SEEDS, ELBO_DRAWS, BOUND_DRAWS = range(5), 8, 500
LESS = {  # settings of fit_vae
    "nothing": {},
    "bias at the pixel frequencies": {"frequencies": False},
    "warm-up": {"warm_up": 0.0},
    "weight decay": {"decay": 0.0},
    "all latents but two": {"k": 2},
}


def fixed(k: int) -> nb.dist.MixtureSameFamily:
    """N(0, I) as a mixture of one Gaussian."""
    return nb.mixture(torch.zeros(1), torch.zeros(1, k), torch.eye(k)[None])


def fitted(grey: torch.Tensor, x_val: torch.Tensor, x_test: torch.Tensor, seed: int, *,
           draws: tuple = (ELBO_DRAWS, BOUND_DRAWS), **settings) -> dict:  # fmt: skip
    """By prior: test ELBO and bound; and the processor seconds of each training."""
    spent, clock = {}, time.process_time()

    def note(name: str) -> None:
        nonlocal clock
        spent[name] = round(time.process_time() - clock, 1)
        clock = time.process_time()

    vae = nb.fit_vae(grey, x_val, k=settings.pop("k", LATENT), seed=seed, **settings)
    note("VAE")
    seed_everything(seed)
    with torch.no_grad():
        codes = vae.posterior(nb.binarise(grey))
    k = codes[0].shape[1]
    unit = Independent(Normal(torch.zeros(k), 1.0), 1)
    mixture = nb.mixture_prior(*codes)
    note("mixture")
    flow = nb.flow_prior(*codes)
    note("flow")
    together, prior = nb.train_together(vae, mixture, grey)
    note("mixture, trained together")
    longer, _ = nb.train_together(vae, fixed(k), grey, prior_lr=0.0)
    note("N(0, I), trained longer")
    scores: dict[str, list[float]] = {}
    for network, priors in (
        (vae, {"N(0, I)": unit, "mixture": mixture, "flow": flow}),
        (together, {"mixture, trained together": prior}),
        (longer, {"N(0, I), trained longer": unit}),
    ):
        both = [nb.prior_scores(network, priors, x_test, s) for s in draws]
        for name in priors:
            pair = [found[name][row].mean() for row, found in enumerate(both)]
            scores[name] = [round(value.item(), 3) for value in pair]
    return {"scores": scores, "processor_seconds": spent}


def ablation(grey: torch.Tensor, x_val: torch.Tensor, x_test: torch.Tensor, *,
             seeds: range = SEEDS[:3], **settings) -> dict[str, list[float]]:  # fmt: skip
    """By what is left out: the test ELBO of each seed, a mean over draws of z."""
    elbos = {}
    for name, less in LESS.items():
        fits = (nb.fit_vae(grey, x_val, **({"k": LATENT} | settings | less), seed=s) for s in seeds)
        draws = [[vae.elbo(x_test, seed).mean() for seed in range(ELBO_DRAWS)] for vae in fits]
        elbos[name] = [round(torch.stack(row).mean().item(), 3) for row in draws]
        print("without", name, elbos[name], flush=True)
    return elbos


def main() -> None:
    torch.set_num_threads(1)
    digits = load_mnist()
    torch.manual_seed(0)
    x_val, x_test = nb.binarise(digits.x_val), nb.binarise(digits.x_test)
    runs = {}
    for seed in SEEDS:
        runs[str(seed)] = fitted(digits.x_train, x_val, x_test, seed)
        print(seed, runs[str(seed)], flush=True)
    stored = measure.origin(__spec__.name, ["torch", "pyro-ppl"])
    stored["ablation"] = ablation(digits.x_train, x_val, x_test)
    stored |= {"code": measure.code_digest(Path(__file__), BOOK.source), "runs": runs}
    measure.write(measure.place("learnt_priors"), stored)


if __name__ == "__main__":
    main()
