"""Wrong answers on Bayesian neural networks: the course's own, with a slip each."""

import re
from collections.abc import Callable

from tests.answers import right
from tools import catalogue
from tools.notebook_definitions import definitions

BOOK = "bayesian_neural_networks_wine"


def slip(exercise: str, *changes: str, book: str = BOOK) -> Callable:
    """The notebook's own answer, with pieces of its text replaced: old, new, old, new."""
    name, text = getattr(right, exercise).__name__, catalogue.find(book).source.read_text("utf-8")
    code = re.search(rf"^(?:def|class) {name}\b.*?(?=\n\n\nassert)", text, re.M | re.S)[0]
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in code, f"{old} is not in {name}"
        code = code.replace(old, new)
    exec(code, space := vars(definitions(book)))
    return space[name]


SIGMA = 'pyro.sample("sigma", dist.LogNormal(x.new_tensor(0.0), 1.0))'
# fmt: off
SLIPS = {  # pieces of the course's own version, what replaces them, words of the message
    "network": [
        ("x.asinh()", "x", "without asinh"), ("F.silu", "torch.relu", "but relu"),
        ("F.silu", "", "straight line"), ("mean, sigma", "mean, sigma**2", "deviation"),
        ("mean, sigma", "mean, 1.0", "has scale 1"), ("2 * hidden", "hidden", "0.5 times"),
        ("LogNormal(x.new_tensor(0.0), 1.0)", "HalfNormal(1.0)", "LogNormal"),
        (SIGMA, "1.0", "never negative"), (SIGMA, "pyro.param('s', torch.ones(()))", "parameter"),
        ('with pyro.plate("data", len(x)):', "if True:", "in no plate"),
        ("obs=y", "obs=None", "observed?"),
        ("obs=y", "obs=torch.zeros(len(x)) if y is None else y", "must draw"),
        ("a @ w2 + b2", "a @ w2[:, None] + b2", "A column (n, 1)"),
        ('pyro.deterministic("mean", ', "(", "no site is named"),
        ("mean, sigma", "mean, pyro.sample('s', dist.HalfNormal(1.0))", "in the plate"),
        ("a @ w2 + b2", "(a @ w2 + b2).squeeze()", "lost its axis"),
        ("hidden**-0.5).to_event(1)", "hidden**-0.5)", "which call"),
        ("a @ w2 + b2", "(a @ w2 + b2).detach()", "stops gradients"),
        ("    return mean", "", "`return` missing"), (" + b2", "", "not that of two layers")],
    "log_evidence": [
        ("- torch.logdet", "+ torch.logdet", "a sharper peak"),
        ("len(w) * math.log(2 * math.pi)", "", "factors of 2π"),
        ("- torch.logdet(precision)", "- 2 * torch.logdet(precision)", "how many halves"),
        ("fit + price", "fit", "where is the prior"), ("sigma**2", "sigma", "which power"),
        (" + torch.diag(prior**-2)", "", "lacks the prior"),
        ("dist.Normal(0.0, prior).log_prob(w)", "(-((w / prior) ** 2) / 2)", "with the prior's"),
        ("dist.Normal(0.0, sigma).log_prob(residuals)", "(-((residuals / sigma) ** 2) / 2)",
         "with the noise"),
        ("prior**-2", "1 / prior", "precision of a"),
        ("torch.logdet(precision)", "torch.det(precision).log()", "not finite"),
        ("return fit", "return -(fit", "volume / 2", "volume / 2)", "negative"),
        ("fit + price + volume / 2", "fit", "log likelihood at"),
        ("fit + price + volume / 2", "fit + price", "how wide is"),
        ("(residuals).sum()", "(residuals).mean()", "not a mean")],
    "coverage": [
        (".mean(0)", "", "(mean, scale)", "(mean.mean(0), scale.mean(0))", "one Gaussian"),
        (".mean(0)", "", "scale)", "(scale.square().mean(0) + mean.var(0)) ** 0.5)", "(mean, ",
         "(mean.mean(0), ", "one Gaussian"),
        ("(1 - mass) / 2", "0", "(1 + mass) / 2", "mass", "one-sided"),
        ("(1 - mass) / 2", "1 - mass", "(1 + mass) / 2", "mass", "share what is"),
        (".mean(0)", "", "first average"), (".mean(0)", ".mean()", "same of all wines"),
        ("(mean, scale)", "(mean.reshape(-1, 1), scale.reshape(-1, 1))", "which axis"),
        (".mean(0)", ".mean(1)", "which axis"), (".double().mean()", ".sum()", "number of wines"),
        ("(1 - mass) / 2", "mass / 2", "(1 + mass) / 2", "1 - mass / 2", "1 − mass"),
        ("scale)", "scale**2)", "standard deviation"),
        ("dist.Normal(mean, scale).cdf(observed)", "(mean < observed).double()", "of the noise"),
        ("return", "return 100 *", "per cent"), (".double().mean()", "", "one share"),
        ("return", "return 1 -", "share outside")],
    "half_width": [
        ("len(residuals) + 1", "len(residuals)", "rank can the"), (".abs()", "", "counts as"),
        (".abs()", ".square()", "in its square"), ("residuals[", "2 * residuals[", "half the"),
        ("math.inf", "residuals[-1]", "so few wines"),
        ("rank <=", "rank <= 0 *", "always infinite"), ("* mass", "* (1 + mass) / 2", "both sides"),
        (" if rank <= len(residuals) else math.inf", "", "so few wines"),
        ("rank - 1", "min(rank, len(residuals) - 1)", "too high"),
        ("math.ceil", "math.floor", "breaks")],
    "risk_coverage": [
        ("argsort()", "argsort().flip(0)", "most doubtful"),
        ("doubt.argsort", "(observed - predicted).abs().argsort", "the true error"),
        ("[doubt.argsort()]", "", "as they came"),
        (".square()", ".abs()", ".sqrt()", "", "absolute"), (".sqrt()", "", "a root"),
        (".square()", "", ".sqrt()", ".abs()", "cancel"),
        ("squares.cumsum(0) / torch.arange(1, len(squares) + 1)", "squares", "not about one"),
        (" / torch.arange(1, len(squares) + 1).to(squares)", "", "divided by"),
        ("torch.arange(1, len(squares) + 1).to(squares)", "len(squares)", "divided by"),
        ("argsort()", "argsort().argsort()", "`argsort` once")]}
