"""The mean-field network of the wine notebook beside what a reader would use instead.

    python -m benchmarks.baselines.bnn [--size quick]    # about 6 minutes

All competitors get the same wines (seed k: test fold k of five, twins kept together) and the same
network: asinh, 11-50-1, SiLU, one Gaussian per weight, one noise scale. See ``RESULTS.md``.
"""

import math
from functools import partial
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import measure
from course_utils.data import duplicate_groups, load_wine_quality, split_indices
from course_utils.metrics import mixture_log_density, rmse
from tools import catalogue
from tools.notebook_definitions import definitions

BOOK = catalogue.find("wine")
nb = definitions(BOOK.file)
nb.standardise.__globals__["device"] = torch.device("cpu")  # the notebook sets it in a cell
HIDDEN, SHAPE = 50, {"hidden": 50, "noisy": False}
STEPS, RATE = 800, 0.03  # of the notebook's fit_mean_field_bnn
EPOCHS, BATCH, PEER_RATE = 150, 64, 0.01
DRAWS = 200


def load(seed: int) -> SimpleNamespace:
    """Test fold ``seed``, and validation wines out of the rest, as in the notebook.

    Features (n, d) are standardised by the training wines, and so is ``y_train`` (n,); ``y_val``
    and ``y_test`` are in quality points, as are ``target``: mean and scale of training's scores.
    """
    wine = load_wine_quality("red")
    groups = duplicate_groups(wine.x)
    fold = nb.deal_folds(groups, folds=5, seed=0)
    test, rest = (held.nonzero().squeeze() for held in (fold == seed % 5, fold != seed % 5))
    parts = split_indices(len(rest), fractions=(0.85, 0.15, 0), groups=groups[rest], seed=seed)
    train, val = rest[parts.train], rest[parts.validation]
    data = SimpleNamespace(y_val=wine.y[val], y_test=wine.y[test])
    data.x_train, data.x_val, data.x_test = (
        nb.standardise(wine.x[rows], wine.x[train]) for rows in (train, val, test)
    )
    data.y_train = nb.standardise(wine.y[train], wine.y[train])
    data.target = wine.y[train].mean(), wine.y[train].std()
    return data


def batches(x: Tensor, y: Tensor, size: int | None, epochs: int):
    """All rows ``epochs`` times, or shuffled batches from a DataLoader."""
    loader = DataLoader(TensorDataset(x, y), batch_size=size, shuffle=True) if size else [(x, y)]
    for _ in range(epochs):
        yield from loader


def from_posterior(loc_and_scale: tuple[Tensor, Tensor], x: Tensor, s: int):
    """Means and scales (s, n) of the notebook's network under a factorised Gaussian."""
    loc, scale = loc_and_scale
    return nb.mean_and_scale(loc + scale * torch.randn(s, len(loc)), x.asinh(), **SHAPE)


def bare_loss(loc, raw, prior, inputs, y):
    """The negative ELBO of the notebook's model in plain PyTorch, with one draw."""
    scale = raw.exp()
    mean, sigma = nb.mean_and_scale(loc + scale * torch.randn_like(loc), inputs, **SHAPE)
    misfit = 0.5 * ((y - mean) / sigma).square() + sigma.log() + 0.5 * math.log(2 * math.pi)
    ratio = scale / prior
    kl = 0.5 * (ratio.square() + (loc / prior).square() - 1) - ratio.log()
    return misfit.sum() + kl.sum()


def bare(x, y, seed, epochs, size, watch):
    """The arithmetic of the notebook's fit_mean_field_bnn, watched."""
    torch.manual_seed(seed)
    inputs, prior = x.asinh(), nb.weight_prior(x, **SHAPE)
    loc = (prior * torch.randn_like(prior) / 3).requires_grad_()
    raw = (prior / 20).log().requires_grad_()

    def loss():
        watch(lambda: [loc.detach(), raw.detach().exp()])
        return bare_loss(loc, raw, prior, inputs, y)

    nb.minimise(loss, [loc, raw], steps=epochs, rate=RATE)
    return from_posterior


def normal(scale: float, *shape: int):
    """Independent Gaussians around zero."""
    return dist.Normal(0.0, scale).expand(shape).to_event(len(shape))


class UsualNet(PyroModule):
    """The usual style: one sample site per weight matrix and bias; the notebook's priors."""

    def __init__(self, d: int, n: int) -> None:
        super().__init__()
        self.n = n
        self.first, self.last = PyroModule[nn.Linear](d, HIDDEN), PyroModule[nn.Linear](HIDDEN, 1)
        self.first.weight = PyroSample(normal(2 * d**-0.5, HIDDEN, d))
        self.first.bias = PyroSample(normal(2.0, HIDDEN))
        self.last.weight = PyroSample(normal(2 * HIDDEN**-0.5, 1, HIDDEN))
        self.last.bias = PyroSample(normal(2.0, 1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        mean = self.last(nn.functional.silu(self.first(x)))[:, 0]
        sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=self.n / len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)
        return mean


def usual(x, y, seed, epochs, size, watch):
    """PyroModule, PyroSample, AutoDiagonalNormal, Trace_ELBO, mini-batches."""
    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    net = UsualNet(x.shape[1], len(x))
    guide = AutoDiagonalNormal(net)
    svi = SVI(net, guide, pyro.optim.Adam({"lr": PEER_RATE}), Trace_ELBO())
    for xb, yb in batches(x.asinh(), y, size, epochs):
        svi.step(xb, yb)
        watch(guide.state_dict)

    def predict(state, x_new, s):
        guide.load_state_dict(state)
        sites = ("_RETURN", "sigma")
        draws = Predictive(net, guide=guide, num_samples=s, return_sites=sites)(x_new.asinh())
        mean = draws["_RETURN"]  # (s, n)
        return mean, draws["sigma"].reshape(s, 1).expand_as(mean)

    return predict


def priors(d: int) -> tuple[float, float]:
    """The notebook's prior scales of the weights: these libraries know one scale per layer."""
    return 2 * d**-0.5, 2 * HIDDEN**-0.5


def network(layer, d: int) -> nn.Sequential:
    """Of two layers, each made for so many inputs and outputs and a prior scale."""
    first, last = priors(d)
    return nn.Sequential(layer(d, HIDDEN, first), nn.SiLU(), layer(HIDDEN, 1, last))


def bayesian_torch(d: int):
    """Its prior_variance is used as a scale, and its KL is a mean over weights: both mended."""
    from bayesian_torch.layers import LinearReparameterization

    class Layer(LinearReparameterization):
        dnn_to_bnn_flag = True  # forward returns the output alone

        def kl_div(self, loc, *others):
            return super().kl_div(loc, *others) * loc.numel()

    net = network(lambda n, m, prior: Layer(n, m, prior_variance=prior), d)
    return net, lambda: net[0].kl_loss() + net[2].kl_loss()


def blitz(d: int):
    """Its KL term is an estimate from the draw of the forward pass."""
    from blitz.losses import kl_divergence_from_nn
    from blitz.modules import BayesianLinear

    net = network(lambda n, m, prior: BayesianLinear(n, m, prior_sigma_1=prior, prior_pi=1), d)
    return net, lambda: kl_divergence_from_nn(net)


def torchbnn(d: int):
    """Its posterior starts as wide as the prior."""
    from torchbnn import BayesLinear, BKLLoss

    net = network(lambda n, m, prior: BayesLinear(0.0, prior, n, m), d)
    return net, lambda: BKLLoss(reduction="sum")(net)[0]


def factors(layer: nn.Module):
    """Mean and scale of weights and biases, by the names that the libraries give them."""
    own, found = dict(layer.named_parameters()), {}
    for name, mean in own.items():
        for other, scale in (("rho", nn.functional.softplus), ("log_sigma", torch.exp)):
            if "mu" in name and (partner := name.replace("mu", other)) in own:
                found[mean.data_ptr()] = mean, scale(own[partner])  # blitz names each twice
    return found.values()


def library(make):
    """Training of a network of Bayesian layers, by the loss of exercise 3."""

    def train(x, y, seed, epochs, size, watch):
        torch.manual_seed(seed)
        net, kl = make(x.shape[1])
        net.log_noise = nn.Parameter(torch.zeros(()))  # Sequential.forward would call a module
        adam = torch.optim.Adam(net.parameters(), PEER_RATE)
        for xb, yb in batches(x.asinh(), y, size, epochs):
            adam.zero_grad()
            log_prob = dist.Normal(net(xb)[:, 0], net.log_noise.exp()).log_prob(yb)
            (kl() / len(y) - log_prob.mean()).backward()
            adam.step()
            watch(net.state_dict)

        def predict(state, x_new, s):
            net.load_state_dict(state)
            with torch.no_grad():
                mean = torch.stack([net(x_new.asinh())[:, 0] for _ in range(s)])
            return mean, net.log_noise.detach().exp().expand_as(mean)

        return predict

    return train


MAKERS = {"bayesian-torch": bayesian_torch, "blitz": blitz, "torchbnn": torchbnn}
COMPETITORS = {  # how to train, on batches of which size (None: all rows), for how many epochs
    "notebook": (bare, None, STEPS),
    "bare PyTorch": (bare, None, STEPS),
    "usual Pyro style": (usual, BATCH, EPOCHS),
    **{name: (library(make), BATCH, EPOCHS) for name, make in MAKERS.items()},
}


def check(name: str, x: Tensor, y: Tensor) -> None:
    """Raises AssertionError if a competitor is not the model that it says it is."""
    torch.manual_seed(0)
    prior = nb.weight_prior(x, **SHAPE)
    if name in MAKERS:  # it is random, and its KL is the one between its Gaussians and the prior
        net, kl = MAKERS[name](x.shape[1])
        assert net(x).shape == (len(x), 1) and not torch.equal(net(x), net(x))
        exact = sum(
            kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0, prior)).sum()
            for layer, prior in zip(net[::2], priors(x.shape[1]), strict=True)
            for loc, scale in factors(layer)
        )
        estimates = torch.stack([(net(x[:1]), kl())[1].detach() for _ in range(400)])
        assert abs(estimates.mean() / exact - 1) < 0.01, (estimates.mean(), exact)
    elif name == "usual Pyro style":  # the same weights have the notebook's density
        net = UsualNet(x.shape[1], len(x))
        trace = pyro.poutine.trace(net).get_trace(x[:64].asinh(), y[:64])
        sites = ("first.weight", "first.bias", "last.weight", "last.bias", "sigma")
        *parts, sigma = (trace.nodes[site]["value"] for site in sites)
        w = torch.cat([*(part.t().flatten() for part in parts), sigma.log()[None]])
        fit = dist.Normal(*nb.mean_and_scale(w, x[:64].asinh(), **SHAPE)).log_prob(y[:64])
        log_prior = dist.Normal(0.0, prior).log_prob(w).sum() - w[-1]  # of sigma, not log sigma
        total = fit.sum() * len(x) / 64 + log_prior
        assert torch.isclose(trace.log_prob_sum(), total, rtol=1e-4)
    else:  # the loss of the notebook, which is bare PyTorch: written out, and by distributions
        loc, scale = prior * torch.randn_like(prior) / 3, prior / 20
        torch.manual_seed(1)
        inputs = x.asinh()
        by_hand = bare_loss(loc, scale.log(), prior, inputs, y)
        torch.manual_seed(1)
        w = loc + scale * torch.randn_like(loc)
        fit = dist.Normal(*nb.mean_and_scale(w, inputs, **SHAPE)).log_prob(y).sum()
        kl = kl_divergence(dist.Normal(loc, scale), dist.Normal(0.0 * prior, prior)).sum()
        assert torch.isclose(by_hand, kl - fit, rtol=1e-4)


def score(predict, x: Tensor, y: Tensor, target, draws: int) -> tuple[float, float]:
    """RMSE (quality points) and mean log density (nats) of targets in quality points."""
    torch.manual_seed(0)
    with torch.no_grad():
        mean, scale = (part.double() * target[1] for part in predict(x, draws))
    mean = mean + target[0]
    return rmse(y, mean.mean(0)), mixture_log_density(y, mean, scale).mean().item()


def step_seconds(train, x: Tensor, y: Tensor) -> float:
    """Seconds of a step on all wines, without the first ones."""
    watch = measure.Watch(every=20)
    train(x, y, 0, 80, None, watch)
    return (watch.notes[-1][0] - watch.notes[0][0]) / 60


def one(name: str, seed: int, size: str) -> dict:
    """Check, train and judge one competitor; a step is timed on all wines for everybody."""
    torch.set_num_threads(1)
    data, (train, batch, epochs) = load(seed), COMPETITORS[name]
    x, y = data.x_train, data.y_train
    check(name, x, y)
    epochs, rounds, draws = (epochs // 10, 1, 20) if size == "quick" else (epochs, 7, DRAWS)
    clocks = (partial(step_seconds, each, x, y) for each in (train, bare))
    own, floor = measure.medians(*clocks, rounds=rounds)
    total = epochs if batch is None else epochs * math.ceil(len(y) / batch)
    watch = measure.Watch(every=max(1, total // 40))
    predict = train(x, y, seed, epochs, batch, watch)

    def judge(state, x_new: Tensor, observed: Tensor) -> tuple[float, float]:
        return score(partial(predict, state), x_new, observed, data.target, draws)

    curve = [(round(t, 4), judge(state, data.x_val, data.y_val)[1]) for t, state in watch.notes]
    error, density = judge(watch.notes[-1][1], data.x_test, data.y_test)
    return {
        "ms_per_step": 1000 * own,
        "of_floor": own / floor,
        "seconds": watch.seconds,
        "curve": curve,
        "test_rmse": error,
        "test_log_density": density,
    }


if __name__ == "__main__":
    packages = ["torch", "pyro-ppl", "bayesian-torch", "blitz-bayesian-pytorch", "torchbnn"]
    measure.command(__spec__, COMPETITORS, one, sources=[BOOK.source], packages=packages)
