"""Wrong and odd answers on learnt priors and completions: pieces of the course's own replaced."""

import torch
from pyro import distributions as dist

from tests.answers import right, slip
from tools.notebook_definitions import definitions


class Bent:
    """The course's prior, of which something is bent."""

    def __init__(self, mu, sigma, log=lambda v: v, draws=lambda v: v):
        self.prior, self.log, self.draws = right.learnt_prior(mu, sigma), log, draws

    def log_prob(self, z):
        return self.log(self.prior.log_prob(z))

    def sample(self, shape):
        return self.draws(self.prior.sample(shape))


DRAW, ROWS = "sigma * torch.randn_like(mu)", "z[weight.multinomial(draws, replacement=True)]"
SIZE = "(1 / weight.square().sum()).item()"
# fmt: off
SLIPS = {  # pieces of the course's own version, what replaces them, words of the message
    "learnt_prior": [
        (f"mu + {DRAW}", "mu", "=30", "=4", "=20.0", "=0.1", "means of q"),
        (DRAW, f"sigma * {DRAW}", "=30", "=4", "standard deviation sigma"),
        (DRAW, "sigma.sqrt() * torch.randn_like(mu)", "standard deviation sigma"),
        ("components=30", "components=1", "one Gaussian for all"),
        ("components=30", "components=2", "good mixture nearly none"),
        (f"mu + {DRAW}", DRAW, "new codes"),
        ("dist.MixtureSameFamily(", "(", "not tuple"),
        ("MultivariateNormal(means, covariances)", "MultivariateNormal(0 * means, covariances)",
         "new codes")],
    "completions": [
        ("[seen]", "", "[..., seen]", "", "looked at the hidden"),
        ("[seen]", "[~seen]", "[..., seen]", "[..., ~seen]", "pixel *is* seen"),
        ("log_bernoulli(x[seen], vae.decoder(z)[..., seen])",
         "log_bernoulli(x * seen, vae.decoder(z))", "they are unknown"),
        (" + log_prior - ", " - ", "the prior is missing"),
        ("return log_bernoulli", "return 0 * log_bernoulli", "draws of the prior"),
        (" - q.log_prob(z)).softmax(0)", ").softmax(0)", "mean or their spread"),
        (f"return {ROWS}, {SIZE}", f"return {ROWS}", "two things"),
        (ROWS, "z[:draws, 0]", "its shape"),
        (SIZE, "weight.square().sum().item()", "at least 1"), (SIZE, "1.0", "sum to one"),
        (SIZE, "float(draws)", "carried the weight"), (SIZE, "1e9", "carried the weight"),
        (SIZE, "(1 / weight.max()).item()", "as rarely as"),
        (ROWS, "vae.posterior((x * seen).expand(draws, -1))[0]", "mean or their spread")]}
# fmt: on
WRONG = [(name, slip(name, *row[:-1]), row[-1]) for name, rows in SLIPS.items() for row in rows]
WRONG += [
    ("learnt_prior", lambda m, s: dist.Normal(0 * m[0], 1.0).to_event(1), "learnt nothing"),
    ("learnt_prior", lambda m, s: dist.Normal(0 * m[0], 1.0), "its shape"),
    ("learnt_prior", lambda *a: Bent(*a, log=lambda v: v + 1), "is 2.7"),
    ("learnt_prior", lambda *a: Bent(*a, log=torch.exp), "not 1"),
    ("learnt_prior", lambda *a: Bent(*a, draws=torch.randn_like), "another density"),
    ("learnt_prior", lambda *a: Bent(*a, draws=torch.zeros_like), "same draws again"),
    (
        "learnt_prior",
        lambda m, s: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(len(m))), dist.Normal(m, s).to_event(1)
        ),
        "one component for each",
    ),
    (
        "learnt_prior",
        lambda m, s: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(500)), dist.Normal(m[:500], s[:500]).to_event(1)
        ),
        "remembers single images",
    ),
]
ODD = [
    ("learnt_prior", lambda *a: Bent(*a, log=torch.Tensor.numpy, draws=torch.Tensor.tolist)),
    ("learnt_prior", definitions("var_mod").flow_prior),
    ("learnt_prior", slip("learnt_prior", "components=30", "components=4")),
    (
        "completions",
        slip("completions", "mu + torch.randn_like(mu)", "mu.clone()", "steps=100", "steps=0"),
    ),
    ("completions", slip("completions", ".item()", ".numpy()", ROWS, f"{ROWS}.tolist()")),
]
