"""The autoencoder of var_mod beside what a reader would use instead.

    python -m benchmarks.baselines.vae [--size quick | full]    # about 9 minutes

Peers: the VAE of Pyro's tutorial, and pythae with its default networks, each as its documentation
trains it. ``--size full`` takes all of MNIST, which is downloaded once. See ``RESULTS.md``.
"""

import tempfile
import time

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import measure
from course_utils.data import load_mnist
from tools import catalogue
from tools.notebook_definitions import definitions

BOOK = catalogue.find("vae")
nb = definitions(BOOK.file)
LATENT, RATE, BATCH, PIXELS = 32, 1e-3, 256, 784
SIZES = {"quick": (1, 40), "normal": (30, 1700), "full": (10, 1700)}  # epochs, notebook's steps
NOTES = 20  # points of a curve


def notebook(x_train: Tensor, x_val: Tensor, seed: int, epochs: int, steps: int):
    """fit_vae as it is taught."""
    note = measure.Watch()

    def watch(vae, step):
        note(vae.state_dict)

    vae = nb.fit_vae(x_train, x_val, k=LATENT, seed=seed, steps=steps, batch=200, watch=watch)
    return vae, note, steps * 200  # images


class StockVae(nb.ScoredVae):
    """The VAE of Pyro's tutorial: one hidden layer of 400, 50 latents, softplus."""

    def __init__(self, d: int = PIXELS, k: int = 50, hidden: int = 400) -> None:
        super().__init__(d, k)
        self.encoder = nn.Sequential(nn.Linear(d, hidden), nn.Softplus(), nn.Linear(hidden, 2 * k))
        self.decoder = nn.Sequential(nn.Linear(k, hidden), nn.Softplus(), nn.Linear(hidden, d))

    def posterior(self, x):
        mu, log_sigma = self.encoder(x).chunk(2, -1)
        return mu, log_sigma.exp()


def stock(x_train: Tensor, x_val: Tensor, seed: int, epochs: int, steps: int):
    """SVI with Trace_ELBO and Adam at 0.001, batches of 256 from a DataLoader."""
    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    vae = StockVae(x_train.shape[1])
    svi = SVI(nb.model, nb.guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
    loader = DataLoader(x_train, batch_size=BATCH, shuffle=True)
    watch = measure.Watch(every=max(1, epochs * len(loader) // NOTES))
    for _ in range(epochs):
        for x in loader:
            svi.step(vae, nb.binarise(x), 50)
            watch(vae.state_dict)
    return vae, watch, epochs * len(x_train)


class PythaeVae(nb.ScoredVae):
    """A view of pythae's default networks, so that all models are scored by the same function."""

    def __init__(self) -> None:
        from pythae.models import VAE, VAEConfig

        class Binarising(VAE):
            def forward(self, inputs, **kwargs):
                return super().forward({"data": nb.binarise(inputs["data"])}, **kwargs)

        super().__init__(PIXELS, LATENT)
        config = VAEConfig(input_dim=(PIXELS,), latent_dim=LATENT, reconstruction_loss="bce")
        self.model = Binarising(config)
        first, (last, _) = self.model.decoder.layers  # _ is the sigmoid
        self.encoder, self.decoder = self.model.encoder, nn.Sequential(first, last)

    def posterior(self, x):
        output = self.encoder(x)
        return output.embedding, (0.5 * output.log_covariance).exp()


def pythae(x_train: Tensor, x_val: Tensor, seed: int, epochs: int, steps: int):
    """Its BaseTrainer with the rate and the batches of its documentation."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    torch.manual_seed(seed)
    vae, watch = PythaeVae(), measure.Watch(every=max(1, epochs // NOTES))

    class Note(TrainingCallback):
        def on_epoch_end(self, training_config, **kwargs):
            watch(vae.state_dict)

    numbers = {"num_epochs": epochs, "learning_rate": RATE, "per_device_train_batch_size": 200}
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(folder, no_cuda=True, seed=seed, **numbers)
        data = BaseDataset(x_train, torch.zeros(len(x_train)))
        trainer = BaseTrainer(vae.model, data, training_config=config, callbacks=[Note()])
        watch.started = time.perf_counter()
        trainer.train()
    return vae, watch, epochs * len(x_train)


COMPETITORS = {  # before the training, and the training
    "notebook": (lambda: nb.ScoredVae(PIXELS, LATENT), notebook),
    "Pyro's tutorial": (StockVae, stock),
    "pythae": (PythaeVae, pythae),
}


def check(vae, x: Tensor, frequency: Tensor) -> None:
    """Known case: with zero last weights, the frequencies' log likelihood minus a constant rate.

    Changes the model. Raises AssertionError if it is not the one that it says it is.
    """
    assert vae.elbo(x).shape == (len(x),)
    ends = [m for m in vae.encoder.modules() if isinstance(m, nn.Linear) and m.out_features <= 100]
    for layer in [*ends, vae.decoder[-1]]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        vae.decoder[-1].bias.copy_(frequency.logit())
    mu, sigma = vae.posterior(x)
    rate = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(-1)
    known = Bernoulli(frequency).log_prob(x).sum(-1) - rate
    assert torch.allclose(vae.elbo(x), known, rtol=1e-4)


def flops_per_image(vae, x: Tensor) -> float:
    """Floating-point operations of the matrix products of a training step, per image."""
    with FlopCounterMode(display=False) as counter:
        mu, sigma = vae.posterior(x)
        logits = vae.decoder(mu + sigma * torch.randn_like(mu))
        (nb.gaussian_kl(mu, sigma) - nb.log_bernoulli(x, logits)).mean().backward()
    return counter.get_total_flops() / len(x)


def peak(size: int = 1024) -> float:
    """Floating-point operations per second of a large matrix product, the best of ten."""
    a = torch.rand(size, size)
    return 2 * size**3 / min(measure.seconds(lambda: a @ a) for _ in range(10))


def one(name: str, seed: int, size: str) -> dict:
    """Check, train and judge one competitor."""
    torch.set_num_threads(1)
    new, train = COMPETITORS[name]
    digits = load_mnist(full=size == "full")
    torch.manual_seed(0)
    x_test = nb.binarise(digits.x_test)
    check(new(), x_test[:50], digits.x_train.mean(0).clamp(1e-4, 1 - 1e-4))
    flops, highest = flops_per_image(new(), x_test[:BATCH]), peak()
    _, watch, images = train(digits.x_train, digits.x_val, seed, *SIZES[size])
    judge, curve = new(), []  # of its own, because scores of the trained one are watched
    for seconds, state in watch.notes:
        judge.load_state_dict(state)
        curve.append((round(seconds, 3), round(judge.elbo(x_test).mean().item(), 3)))
    return {
        "seconds": watch.seconds,
        "curve": curve,
        "test_elbo": curve[-1][1],
        "images": images,
        "flops_per_image": flops,
        "share_of_peak": flops * images / watch.seconds / highest,
    }


if __name__ == "__main__":
    given = {"sources": [BOOK.source], "packages": ["torch", "pyro-ppl", "pythae"]}
    measure.command(__spec__, COMPETITORS, one, sizes=SIZES, **given)
