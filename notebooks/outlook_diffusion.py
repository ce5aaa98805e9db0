# %% [markdown] slideshow={"slide_type": "slide"}
# # {{title}}
# *Bayesian Statistical Learning, Lecture 4: Deep learning architectures*
#
# {{picture}}
#
# **Blur two moons until nothing is left of them. Can you walk back?** Today's image generators do
# just
# that. Here the best way back is known exactly, so you will see what a network has learnt of it,
# and what it has not.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you will do.** Use the two ideas of the lecture a third and a fourth time: the bound of
# the VAE with an encoder that nobody trains, and the change of variables of a flow with infinitely
# many layers. The first is called *diffusion*, the second a *continuous flow*.
#
# **What you will learn.**
# - Why a diffusion model is a VAE, and of which parts its bound falls short of the truth.
# - How to train a denoiser, and how far it is from the best one.
# - How to sample from it in two ways, and to compute its density.
# - What flow matching changes, and what it does not.
# - What guidance does to a density.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you need.** The ELBO and the Kullback–Leibler divergence, as in
# [var_mod](var_mod.ipynb); the log-determinant, as in [flows](flows.ipynb); an `nn.Module` of
# PyTorch. No GPU is needed. Everything runs unchanged on one, where it was not timed.
#
# {{ways}}; each says how long.
#
# {{timetable}}
#
# **Data.** Two moons, drawn by `course_utils.data.make_two_moons`: artificial, so that everything
# about them is known. No licence is needed.

# %%
import course_utils  # noqa: F401 - before torch: it decides how threads wait

# %% slideshow={"slide_type": "subslide"}
import functools
import math
import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display
from scipy.interpolate import CubicSpline
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from course_utils import progress
from course_utils.checks import outlook as checks
from course_utils.data import make_two_moons, two_moons_log_prob
from course_utils.explore import explore
from course_utils.metrics import mean_and_error
from course_utils.plotting import PALETTE, use_course_style
from course_utils.predictions import answer, predict
from course_utils.results import publish
from course_utils.runtime import bar, get_device, seed_everything, set_threads
from course_utils.validation import is_number, is_whole, require

# %% tags=["parameters"] slideshow={"slide_type": "subslide"}
SEED = 0
DEVICE = "auto"  # "cpu" or "cuda" to choose
THREADS = 1  # this network is small: a second thread costs more than it brings
N_TRAIN = 10_000  # training points
N_TEST = 10_000  # test points
NOISE = 0.05  # width of the moons
TOP = 10.0  # largest noise level
HIDDEN = 96  # units in each of three hidden layers
BATCH = 512
STEPS = 6_000  # of training, the same for every network

# %%
EXPECTED = "expected with parameters and networks as they stand in the notebook"
require(is_number(NOISE, 0.03, 0.2), "NOISE", "a number from 0.03 to 0.2", NOISE)
require(is_number(TOP, 2, 100), "TOP", "a number from 2 to 100", TOP)
least = {"N_TRAIN": 1000, "N_TEST": 2000, "HIDDEN": 8, "BATCH": 32, "STEPS": 20}
for name, low in least.items():
    value = globals()[name]
    require(is_whole(value, low), name, f"a whole number of at least {low}", value)

# %%
seed_everything(SEED)
device = get_device(DEVICE)
_ = set_threads(THREADS)
use_course_style()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 Moons that melt
# A point $x$ of two moons, two half circles blurred by a little noise, $\nu = 0.05$. We add more:
# $$z = x + \sigma\,\varepsilon, \qquad \varepsilon \sim N(0, I).$$
# $\sigma$ is the **noise level**. Gaussian noise on top of Gaussian noise is Gaussian noise of
# variance
# $\nu^2 + \sigma^2$. So the density of $z$, called $p_\sigma$, is that of blurrier moons: known.


# %%
def draw_moons(seed: int, n: int) -> Tensor:
    return make_two_moons(n, noise=NOISE, seed=seed).x.to(device)  # (n, 2)


def true_log_prob(z: Tensor, sigma: float = 0.0) -> Tensor:
    """The density of z = x + sigma eps: exact, (n, 2) -> (n,), in nats."""
    return two_moons_log_prob(z.cpu(), noise=math.hypot(NOISE, sigma)).to(z.device)


x_train, x_test = draw_moons(100 + SEED, N_TRAIN), draw_moons(300 + SEED, N_TEST)
centre, scale = x_train.mean(0), x_train.var(0).mean().sqrt().item()
assert x_train.shape == (N_TRAIN, 2)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict first:** you see a $z$ and know $\sigma$. Your best guess of $x$, with the least mean
# squared error, is called $\hat x$. Where does it lie if $\sigma = 10$, ten times the size of the
# moons?

# %%
predict("far_guess", "on the moon nearest to z", "near the centre of all data", "near z itself")

# %% [markdown]
# The best guess is the mean of what is possible: $\hat x(z, \sigma) = E[x \mid z]$. For moons it is
# known. If we knew the point $c$ on the half circle from which $x$ came, two Gaussians would give
# $$E[x \mid z, c] = \frac{\nu^2 z + \sigma^2 c}{\nu^2 + \sigma^2}.$$
# We do not know $c$, so we average over it. Each $c$ weighs as much as it explains $z$, that is,
# $N(z; c, (\nu^2 + \sigma^2) I)$. An integral over one angle, done by quadrature: a sum over a
# few hundred points $c$.
# The same weights give the covariance of $x$.


# %%
@functools.cache
def gauss_legendre(n: int) -> tuple[Tensor, Tensor]:
    return tuple(map(torch.as_tensor, np.polynomial.legendre.leggauss(n)))


def on_curves(sigma: float, moon: int | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Points c (t, 2) of both half circles or of one, and their weights (t,)."""
    needed = 3 * math.pi / math.hypot(NOISE, sigma)
    node, weight = gauss_legendre(64 * max(1, math.ceil(needed / 64)))
    angle = math.pi * (node + 1) / 2
    upper = torch.stack((angle.cos(), angle.sin()), -1)
    curves = [upper, torch.tensor([1.0, 0.5]) - upper]
    chosen = curves if moon is None else curves[moon : moon + 1]
    c, weight = torch.cat(chosen), weight.repeat(len(chosen))
    return c.to(like), (weight / weight.sum()).to(like)


# %%
def exact(z: Tensor, sigma: float, moon: int | None = None) -> tuple[Tensor, Tensor]:
    """Mean (n, 2) and covariance (n, 2, 2) of x, given z and perhaps the moon."""
    c, weight = on_curves(float(sigma), moon, z.double())
    v, pairs = NOISE**2 + float(sigma) ** 2, (c[:, :, None] * c[:, None]).flatten(1)
    mean, square = torch.empty_like(z, dtype=c.dtype), c.new_empty(len(z), 4)
    for rows in torch.arange(len(z)).split(2048):  # not all at once: it would fill the memory
        far = torch.cdist(z[rows].double(), c) ** 2
        share = torch.softmax(weight.log() - far / (2 * v), -1)  # (rows, t)
        mean[rows], square[rows] = share @ c, share @ pairs
    unknown = square.unflatten(1, (2, 2)) - mean[:, :, None] * mean[:, None]  # covariance of c
    part, eye = float(sigma) ** 2 / v, torch.eye(2).to(mean)
    return z + part * (mean - z), part * NOISE**2 * eye + part**2 * unknown


def exact_denoiser(z: Tensor, sigma: float) -> Tensor:
    return exact(z, sigma)[0].to(z.dtype)


# %% tags=["picture-first", "picture-noise"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Four heat maps of the moons at noise levels 0, 0.1, 0.3 and 1: two sharp arcs, two soft ones, one cloud with two lobes, one round cloud. Orange arrows lead from points around to their best guesses: first onto the arcs, at last all to the middle."
fig, axes = plt.subplots(1, 4, figsize=(10, 2.5))
for ax, sigma in zip(axes, (0.0, 0.1, 0.3, 1.0), strict=True):
    half = 1.7 + 1.5 * sigma
    ends = [(0.5 - half, 0.5 + half), (0.25 - half, 0.25 + half)]
    fine = [torch.linspace(*pair, 120) for pair in ends]
    p = true_log_prob(torch.cartesian_prod(*fine), sigma).exp().reshape(120, 120).T
    _ = ax.contourf(*fine, p, levels=torch.linspace(0, p.max(), 9))
    if sigma:
        z = torch.cartesian_prod(*(torch.linspace(*pair, 10)[1:-1] for pair in ends))
        step = exact_denoiser(z, sigma) - z
        style = {"color": PALETTE["orange"], "width": 0.006, "scale_units": "xy", "scale": 1}
        _ = ax.quiver(*z.T, *step.T, angles="xy", **style)
    _ = ax.set(title=rf"$\sigma$ = {sigma:g}", xlabel="$z_1$", aspect="equal")
    ax.grid(False)
_ = axes[0].set_ylabel("$z_2$")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
far = torch.tensor([[15.0, 0.0], [-8.0, 9.0]], device=device)
away = (exact_denoiser(far, 10.0) - torch.tensor([0.5, 0.25], device=device)).norm(dim=-1)
answer("far_guess", "near the centre of all data", "Such a z tells next to nothing of its x.")
assert (away < 0.3).all(), EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# Arrows lead from $z$ to $\hat x$. With little noise they go to the nearest moon; with much, to the
# centre. In between they must choose.
#
# **One vector, two names.** The gradient of the log density is called the **score**. (Not the
# number
# by which models are judged.) For Gaussian noise it is that arrow, rescaled:
# $$\nabla_z \log p_\sigma(z) = \frac{\hat x(z, \sigma) - z}{\sigma^2}.$$
# This is *Tweedie's formula*. Whoever denoises best knows the slope of the density. We check it
# against autograd, on a density that knows nothing of denoising.

# %%
z = (x_test[:200] + 0.3 * torch.randn_like(x_test[:200])).cpu().double().requires_grad_()
c, weight = on_curves(0.3, None, z)
log_p = torch.logsumexp(weight.log() - torch.cdist(z, c) ** 2 / (2 * (NOISE**2 + 0.3**2)), -1)
(score,) = torch.autograd.grad(log_p.sum(), z)
z = z.detach()
constant = true_log_prob(z, 0.3) - log_p.detach()  # of the normal density
assert constant.std() < 1e-6
assert torch.allclose(score, (exact_denoiser(z, 0.3) - z) / 0.3**2, atol=1e-6)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 A VAE with a fixed encoder
# Now put latents behind latents. Choose levels $0 = \sigma_0 < \sigma_1 < \dots < \sigma_T$. The
# **encoder** adds noise, step by step, and has nothing to learn. The **model** begins at the top
# and
# comes down to $z_0 = x$:
#
# | | encoder $q$, upwards | model $p$, downwards |
# | --- | --- | --- |
# | top | | $z_T \sim N(m, \sigma_T^2 I)$ |
# | step | $z_i = z_{i-1} + \sqrt{\sigma_i^2 - \sigma_{i-1}^2}\;\varepsilon$ | $z_{i-1} \sim N(\mu_i(z_i), v_i I)$ |
#
# $m$ is the mean of the training points, $\sigma_T = 10$. Our levels are $\sigma = \nu \sinh u$
# with
# equally spaced $u$: fine steps near the data, growing ones far away.


# %%
def levels(steps: int, top: float = TOP) -> Tensor:
    """0 = sigma_0 < ... < sigma_T = top, shape (T + 1,)."""
    u = torch.linspace(0, math.asinh(top / NOISE), steps + 1, dtype=torch.double)
    return NOISE * torch.sinh(u)


print("ten steps:", " ".join(f"{sigma:.2g}" for sigma in levels(10).tolist()))

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 1: one step back, if x were known (10 minutes)
# Given $x$ and $z_i$, the level below is Gaussian: $q(z_{i-1} \mid z_i, x)$. Find its mean and its
# variance. You know two things about $z_{i-1}$: it is $x$ plus noise of variance
# $\sigma_{i-1}^2$, and $z_i$
# is $z_{i-1}$ plus noise of variance $\sigma_i^2 - \sigma_{i-1}^2$. In the code, `sigma` is
# $\sigma_i$
# and `below` is $\sigma_{i-1}$.


# %% tags=["exercise"]
def my_step_back(z: Tensor, x: Tensor, sigma: float, below: float) -> tuple[Tensor, float]:
    """z, x (n, d) -> mean (n, d) and variance of the level below, one for all coordinates."""
    return ..., ...


checks.check_step_back(my_step_back)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Two Gaussian pieces of news about one number. Which of their precisions (one over variance) add
# up?
# </details>
#
# <details><summary>Hint 2</summary>
#
# The mean lies between $x$ and $z_i$, at a share of the way that depends on the two levels alone.
# With `below = 0` it must be $x$, with `below = sigma` it must be $z_i$. Multiply your fraction
# out:
# `below = 0` must not divide by zero.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def step_back(z: Tensor, x: Tensor, sigma: float, below: float) -> tuple[Tensor, float]:
    share = (below / sigma) ** 2  # of the way from x to z
    return x + share * (z - x), share * (sigma**2 - below**2)


assert checks.check_step_back(step_back)

# %%
if checks.check_step_back(my_step_back):
    step_back = my_step_back

# %% [markdown] slideshow={"slide_type": "subslide"}
# The model does not know $x$. Its best mean is the same formula with $\hat x$ in place of $x$. So
# **all there is to learn is the denoiser**. Then the bound is that of the VAE, with one
# divergence for
# each level:
# $$\text{ELBO} = E_q\Bigl[\log p(x | z_1) - \sum_{i=2}^T \mathrm{KL}\bigl(q(z_{i-1} | z_i, x)\,\|\,
# p(z_{i-1} | z_i)\bigr)\Bigr] - \mathrm{KL}\bigl(q(z_T | x)\,\|\,p(z_T)\bigr).$$
# All of them are between Gaussians, in closed form; the expectation is one draw for each level.
# (The
# line with `luck` takes off noise of mean zero: a *control variate*, for a smaller error.)


# %%
@torch.no_grad()
def elbo(denoise: Callable, x: Tensor, sigmas: Tensor, variances: Tensor) -> Tensor:
    """One estimate of the ELBO for each row of x (n, 2), in nats."""
    sigmas, variances = sigmas.tolist(), variances.tolist()
    bound = -((x - centre) ** 2).sum(-1) / (2 * sigmas[-1] ** 2)  # the top: same variances
    for i in bar(range(1, len(sigmas)), desc="levels"):
        eps = torch.randn_like(x)
        z, luck = x + sigmas[i] * eps, (eps**2).sum(-1) - 2  # of mean zero
        mean_q, var_q = step_back(z, x, sigmas[i], sigmas[i - 1])
        mean_p, _ = step_back(z, denoise(z, sigmas[i]), sigmas[i], sigmas[i - 1])
        v = variances[i - 1]
        miss = ((mean_q - mean_p) ** 2).sum(-1) - (v - var_q) * luck  # (n,)
        if i == 1:
            bound = bound - math.log(2 * math.pi * v) - miss / (2 * v)
        else:
            bound = bound - miss / (2 * v) - (var_q / v - 1 - math.log(var_q / v))
    return bound


# %% [markdown]
# **Predict first:** take the exact denoiser. Nothing is left to learn. How does the ELBO compare
# with the true $\log p(x)$, on average?

# %%
predict("perfect", "equal", "below, the less the more steps", "below, by the same for any T")

# %% [markdown] slideshow={"slide_type": "subslide"}
# On average over the data, the gap is a divergence of whole paths $x, z_1, \dots, z_T$. Both $q$
# and $p$, read downwards, are chains, so it is a
# sum:
# $$E[\log p_0(x) - \text{ELBO}] = \sum_{i=1}^T E\,\mathrm{KL}\bigl(q(z_{i-1} | z_i)\,\|\,
# p(z_{i-1} | z_i)\bigr) + \mathrm{KL}\bigl(q(z_T)\,\|\,p(z_T)\bigr).$$
# Here $q(z_{i-1} | z_i)$ does not know $x$ and is not Gaussian. That gives three parts, even with
# the exact denoiser:
#
# 1. **Steps:** a Gaussian takes the place of that step, with the right mean and the best variance.
# 2. **Variance:** another variance than the best. Ho and others (2020) took that of the step up,
#    $\sigma_i^2 - \sigma_{i-1}^2$.
# 3. **Top:** $q(z_T)$ is not quite Gaussian.
#
# The best variance (Bao and others 2022) holds what even $\hat x$ does not know. Two curves say
# all: the mean squared error of $\hat x$, and the entropy $H(\sigma)$ of $z$. We sum over a grid.


# %%
def known(sigma: float) -> tuple[float, float]:
    """Mean squared error per coordinate of the exact denoiser; entropy of z, in nats."""
    width = math.hypot(NOISE, sigma)
    ends = ((-1 - 6 * width, 2 + 6 * width), (-0.5 - 6 * width, 1 + 6 * width))
    z = torch.cartesian_prod(*(torch.arange(*e, 0.7 * width, dtype=torch.double) for e in ends))
    log_p, (_, covariance) = true_log_prob(z, sigma), exact(z, sigma)
    mass = log_p.exp() * (0.7 * width) ** 2  # of each cell
    variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    return (mass * variance).sum().item(), -(mass * log_p).sum().item()


grid_u = np.linspace(0, math.asinh(TOP / NOISE), 61)
error, entropy = np.array([known(NOISE * math.sinh(u)) for u in grid_u]).T
relative = np.append(1.0, error[1:] / (NOISE * np.sinh(grid_u[1:])) ** 2)  # error / sigma²
relative_error, entropy_of = CubicSpline(grid_u, relative), CubicSpline(grid_u, entropy)
assert abs(entropy[0] - 0.2892) < 5e-4, EXPECTED  # as in the notebook on flows


# %% [markdown]
# By Bayes' theorem $H(z_{i-1} | z_i) = H(z_{i-1}) + H(z_i | z_{i-1}) - H(z_i)$. So in the sum
# over all
# steps only the first and the last entropy stay.


# %% slideshow={"slide_type": "subslide"}
def variances(sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Best variance of each step down, and that of the step up, (T,) each."""
    high, low = sigmas[1:], sigmas[:-1]
    left = torch.as_tensor(relative_error((high / NOISE).asinh().numpy())) * high**2
    _, var_q = step_back(torch.zeros(1, 1), torch.zeros(1, 1), high, low)
    return var_q + (1 - (low / high) ** 2) ** 2 * left, high**2 - low**2


def parts(sigmas: Tensor) -> dict[str, float]:
    """The three parts of the gap with the exact denoiser, in nats."""
    best, wide = variances(sigmas)
    top, h = sigmas[-1].item(), entropy_of(np.arcsinh(sigmas[[0, -1]].numpy() / NOISE))
    spread = x_spread + 2 * top**2  # mean square of z_T around m
    return {
        "steps": ((best / wide).log().sum() + h[1] - h[0]).item(),
        "variance": (best / wide - 1 - (best / wide).log()).sum().item(),
        "top": math.log(2 * math.pi * top**2) + spread / (2 * top**2) - h[1].item(),
    }


c, weight = on_curves(0.0, None, torch.zeros(1, dtype=torch.double))
x_spread = (weight @ (c - centre.cpu()) ** 2).sum().item() + 2 * NOISE**2  # mean of |x - m|²

# %%
plans = {(10, TOP): 4000, (100, TOP): 2000, (1000, TOP): 1000, (100, 2.0): 2000}  # points
torch.manual_seed(SEED)
found = {}
for (steps, top), n in plans.items():
    sigmas, x = levels(steps, top), x_test[:n]
    best, _ = variances(sigmas)
    estimate = elbo(exact_denoiser, x, sigmas, best)
    gap = mean_and_error((true_log_prob(x) - estimate).double())
    found[steps, top] = parts(sigmas) | {"gap": gap[0].item(), "±": gap[1].item()}

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
table = (
    "| T | top | steps | top, not Gaussian | sum of both | on test points | if variances are those "
)
table += "of the step up |\n" + "| --- " * 7 + "|"
for (steps, top), row in found.items():
    both = row["steps"] + row["top"]
    table += f"\n| {steps:,} | {top:g} | {row['steps']:.4f} | {row['top']:.6f} | {both:.4f} | "
    table += f"{row['gap']:.3f} ± {row['±']:.3f} | + {row['variance']:.4f} |"
display(Markdown(table + "\n\nShort of log p, in nats per point."))

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("perfect", "below, the less the more steps", "Ten times the steps, a tenth of the gap.")
for row in found.values():
    assert abs(row["gap"] - row["steps"] - row["top"]) < 5 * row["±"] + 0.002, EXPECTED
assert found[1000, TOP]["steps"] + found[1000, TOP]["top"] < 0.01, EXPECTED
assert found[1000, TOP]["variance"] > found[1000, TOP]["steps"], EXPECTED

# %% [markdown]
# With a thousand steps and the best variances the bound comes within 0.01 nats of the truth. The
# usual
# variances cost several times as much. The estimates on test points agree: the arithmetic is
# complete. And the top must
# be high: begin at $\sigma_T = 2$ and its part is no longer zero.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 A denoiser from data
# Without the truth, only the $x$ of the training set are known. In the ELBO the denoiser enters as
# $|\hat x - x|^2$, with a weight for each level. Squared error has the mean as its minimum: the
# network that predicts $x$ best predicts
# $E[x \mid z]$. So regression on noisy copies finds the score. This is **denoising score
# matching** (Vincent 2011), and $E[x \mid z]$ was never computed.
#
# **A good start.** How would a network $F$ like its input and target? At every level of variance
# one. If the data
# were $N(m, s^2 I)$, the best guess would be linear, $m + c_\text{skip}\,(z - m)$. Let $F$ learn
# the rest,
# in its own unit (Karras and others 2022):
# $$\hat x = m + c_\text{skip}\,(z - m) + c_\text{out}\,F\bigl(c_\text{in}\,(z - m),\ \sigma\bigr),$$
# $$c_\text{skip} = \frac{s^2}{\sigma^2 + s^2}, \quad c_\text{out} = \frac{\sigma s}{\sqrt{\sigma^2 + s^2}},
# \quad c_\text{in} = \frac{1}{\sqrt{\sigma^2 + s^2}}.$$
# The first weights are five times PyTorch's usual ones: the function bends sharply.


# %%
def network(inputs: int, hidden: int = HIDDEN) -> nn.Sequential:
    """Three hidden layers; two outputs, which are zero at first."""
    layers = [nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()]
    net = nn.Sequential(*layers, nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 2))
    with torch.no_grad():
        for weight in net[0].parameters():
            weight *= 5
        for weight in net[-1].parameters():
            weight *= 0
    return net


class Denoiser(nn.Module):
    """A guess of x from z (n, 2) and a level, one for all or (n, 1)."""

    def __init__(self, centre: Tensor, scale: float) -> None:
        super().__init__()
        self.net, self.scale = network(3), scale
        self.register_buffer("centre", centre)

    def forward(self, z: Tensor, sigma: Tensor | float) -> Tensor:
        sigma = torch.as_tensor(sigma).to(z).expand(len(z), 1)
        z, total = z - self.centre, sigma**2 + self.scale**2
        level = (sigma / NOISE).asinh() / 3 - 1  # about -1 to 1
        f = self.net(torch.cat((z / total.sqrt(), level), -1))
        skip, out = self.scale**2 / total, sigma * self.scale / total.sqrt()
        return self.centre + skip * z + out * f


# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 2: the loss (10 minutes)
# Write the loss of a batch: the mean over points and coordinates of a *weighted* squared error of
# `denoise(z, sigma)`. Choose the weight so that no level dominates: for data $N(m, s^2 I)$ the
# best linear guess, $F = 0$, must cost 1 on
# average, at every level. `scale` is $s$.


# %% tags=["exercise"]
def my_loss(denoise: Callable, x: Tensor, sigma: Tensor, eps: Tensor, scale: float) -> Tensor:
    """x, eps (n, d), sigma (n, 1) -> loss (), no unit."""
    return ...


checks.check_denoising_loss(my_loss)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# What does the denoiser see, and what should it return? The first needs `eps`, the second does not.
# </details>
#
# <details><summary>Hint 2</summary>
#
# With $F = 0$ and Gaussian data: how large is the mean squared error of a coordinate, as a
# function of $\sigma$ and $s$?
# (It is the variance of $x$ given $z$.) One of the three $c$ is its root.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def denoising_loss(
    denoise: Callable, x: Tensor, sigma: Tensor, eps: Tensor, scale: float
) -> Tensor:
    weight = (sigma**2 + scale**2) / (sigma * scale) ** 2  # 1 / c_out²
    return (weight * (denoise(x + sigma * eps, sigma) - x) ** 2).mean()


assert checks.check_denoising_loss(denoising_loss)

# %%
if checks.check_denoising_loss(my_loss):
    denoising_loss = my_loss

# %% [markdown] slideshow={"slide_type": "subslide"}
# Each batch holds all levels: $u$ is spread evenly from zero to its top, with a random shift for
# each point.


# %%
def random_levels(n: int, like: Tensor) -> Tensor:
    """Noise levels (n, 1), from the data to the top."""
    u = (torch.arange(n).to(like) + torch.rand(n).to(like)) / n * math.asinh(TOP / NOISE)
    return NOISE * torch.sinh(u)[:, None]


def score_matching(model: Denoiser, x: Tensor) -> Tensor:
    sigma = random_levels(len(x), x)
    return denoising_loss(model, x, sigma, torch.randn_like(x), model.scale)


def train(model: nn.Module, loss: Callable, x: Tensor, steps: int = STEPS) -> Tensor:
    """Adam, one cycle of the learning rate; returns the losses."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, steps, pct_start=0.1)
    losses = torch.empty(steps)
    for step, rows in enumerate(bar(torch.randint(len(x), (steps, BATCH)))):
        value = loss(model, x[rows])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        losses[step] = value.detach()
    model.requires_grad_(False)
    return losses


# %%
torch.manual_seed(SEED)
started = time.perf_counter()
denoiser = Denoiser(centre, scale).to(device)
losses = train(denoiser, score_matching, x_train)
print(f"{STEPS:,} steps in {time.perf_counter() - started:.0f} s")

# %% [markdown]
# **Predict first:** $\hat x$ of the network is compared with the exact one, their distance in
# units of $\sigma$. Where is it
# largest?

# %%
predict("hardest", "with the least noise", "in the middle", "with the most noise")

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
torch.manual_seed(SEED)
u = torch.linspace(0.05, grid_u[-1], 40, dtype=torch.double)
shown, x, excess, whole = NOISE * torch.sinh(u), x_test[:4000], [], []
for sigma in shown.tolist():
    z = x + sigma * torch.randn_like(x)
    guess = denoiser(z, sigma)
    excess.append(((guess - exact_denoiser(z, sigma)) ** 2).mean().item() / sigma**2)
    whole.append(((guess - x) ** 2).mean().item() / sigma**2)
excess_of = CubicSpline(u.numpy(), excess)
inverse_weight = 1 / (1 + np.sinh(grid_u) ** 2 * (NOISE / scale) ** 2)  # c_out² / sigma²
floor = np.trapezoid(relative / inverse_weight, grid_u) / grid_u[-1]

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Left: the training loss falls within a few hundred steps to a dashed floor and stays just above it. Right: error against noise level, logarithmic. The network's whole error lies on the exact curve; the part above it is hundreds of times smaller and has its peak at noise levels near 0.1."
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
smooth = np.convolve(losses, np.ones(50) / 50, "valid")
_ = left.plot(np.arange(len(smooth)) + 50, smooth, label="loss, mean of 50 steps")
_ = left.axhline(floor, color=PALETTE["black"], linestyle="--", label="floor: exact denoiser")
_ = left.set(xlabel="step", ylabel="loss (no unit)", ylim=(floor - 0.02, floor + 0.15))
_ = left.legend()
_ = right.loglog(shown, relative_error(u.numpy()), color=PALETTE["black"], label="exact: the floor")
_ = right.loglog(shown, whole, "o", ms=4, color=PALETTE["blue"], label="network")
_ = right.loglog(shown, excess, color=PALETTE["orange"], label="network beside exact")
_ = right.set(xlabel=r"noise level $\sigma$", ylabel=r"squared error / $\sigma^2$")
_ = right.legend(fontsize=10)

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("hardest", "in the middle", "There one must choose between moons, and along them.")
peak = shown[int(np.argmax(excess))].item()
assert 0.02 < peak < 0.6 and max(excess) < 0.05, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The loss cannot fall below its floor: noise has destroyed something, and no network gets it
# back. So the
# loss alone does not say how good the network is. What is above the floor is hundreds of times
# smaller, and
# only the exact answer makes it visible. Now the picture of the arrows:

# %% jupyter={"source_hidden": true} alt="Three panels at noise level 0.2: arrows of the exact denoiser, arrows of the network, which look the same, and a heat map of their distance: dark, with brighter spots between the moons and outside their ends."
sigma, box = 0.2, (-1.6, 2.6, -1.2, 1.7)
z = torch.cartesian_prod(torch.linspace(-1.4, 2.4, 16), torch.linspace(-1.0, 1.5, 12)).to(device)
fig, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True)
for ax, (name, f) in zip(
    axes, {"exact": exact_denoiser, "network": denoiser}.items(), strict=False
):
    style = {"color": PALETTE["blue"], "scale_units": "xy", "scale": 1, "width": 0.005}
    _ = ax.quiver(*z.T.cpu(), *(f(z, sigma) - z).T.cpu(), angles="xy", **style)
    _ = ax.set(title=rf"{name}, $\sigma$ = {sigma}", xlabel="$z_1$", xlim=box[:2], ylim=box[2:])
fine = torch.linspace(*box[:2], 120, device=device), torch.linspace(*box[2:], 90, device=device)
points = torch.cartesian_prod(*fine)
off = (denoiser(points, sigma) - exact_denoiser(points, sigma)).norm(dim=-1) / sigma
off = off.reshape(120, 90).T.cpu()
steps = torch.linspace(0, 0.4, 9)
shown_off = axes[2].contourf(*(axis.cpu() for axis in fine), off, levels=steps, extend="max")
_ = axes[2].set(title=r"their distance / $\sigma$", xlabel="$z_1$")
_ = fig.colorbar(shown_off, ax=axes[2])
_ = axes[0].set_ylabel("$z_2$")
axes[2].grid(False)


# %% [markdown] slideshow={"slide_type": "subslide"}
# **The fourth part of the gap.** A wrong mean costs $|\mu_\theta - \mu|^2 / 2v_i$ at each step.
# It is
# added to the other three:


# %%
def learning(sigmas: Tensor) -> float:
    """What the network's error costs the ELBO, in nats."""
    best, _ = variances(sigmas)
    high, low = sigmas[1:], sigmas[:-1]
    square = torch.as_tensor(excess_of((high / NOISE).asinh().clamp(min=0.05).numpy())) * high**2
    return ((1 - (low / high) ** 2) ** 2 * square / best).sum().item()


# %% jupyter={"source_hidden": true}
torch.manual_seed(SEED)
table = "| T | steps | top | learning | sum | on test points |\n" + "| --- " * 6 + "|"
for steps in (10, 100, 1000):
    sigmas, row, x = levels(steps), found[steps, TOP], x_test[: 10_000 if steps < 1000 else 2000]
    best, _ = variances(sigmas)
    row["learning"] = learning(sigmas)
    gap = mean_and_error((true_log_prob(x) - elbo(denoiser, x, sigmas, best)).double())
    row["learnt gap"], row["learnt ±"] = (each.item() for each in gap)
    total = row["steps"] + row["top"] + row["learning"]
    table += f"\n| {steps:,} | {row['steps']:.4f} | {row['top']:.5f} | {row['learning']:.4f} | "
    table += f"{total:.4f} | {row['learnt gap']:.4f} ± {row['learnt ±']:.4f} |"
    assert abs(total - row["learnt gap"]) < 5 * row["learnt ±"] + 0.003, EXPECTED
display(Markdown(table + "\n\nShort of log p, in nats per point; best variances."))
assert 0.003 < found[1000, TOP]["learning"] < 0.1, EXPECTED

# %% [markdown]
# With ten steps the steps cost most, with a thousand what was not learnt.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Walking back
# **The first way** is the model: draw $z_T$, then one step after the other. It is
# called *ancestral sampling*.
#
# **The second way** needs no chance on the way. As $\sigma$ grows, $p_\sigma$ melts like heat:
# $\partial p_\sigma / \partial(\sigma^2/2) = \Delta p_\sigma = -\nabla \cdot (p_\sigma \cdot (-\nabla \log p_\sigma))$.
# The right-hand side is what becomes of a density whose points move with velocity
# $-\nabla \log p_\sigma$. So the blur can be had by *moving* each point
# (Song and others 2021),
# $$\frac{dz}{d\sigma} = -\sigma\,\nabla_z \log p_\sigma(z) = \frac{z - \hat x(z, \sigma)}{\sigma},$$
# and undone by moving it back. This is the **probability-flow ODE** (ordinary differential
# equation).
#
# ### Exercise 3: Heun's steps (15 minutes)
# Solve it downwards. From one level to the next, *Heun's rule* takes the slope $dz/d\sigma$ at
# the start, steps along it for a trial, takes the slope
# at the trial point and the new level, and then goes from the start with the mean of both. Where
# the new level is 0, the second
# slope would divide by zero: keep the trial.


# %% tags=["exercise"]
def my_ode(denoise: Callable, z: Tensor, sigmas: Tensor) -> Tensor:
    """z (n, d) at sigmas[0]; sigmas (T + 1,) falls, perhaps to 0 -> points at sigmas[-1]."""
    return ...


checks.check_ode(my_ode)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Write a small function for the slope, and loop over pairs:
# `zip(sigmas[:-1], sigmas[1:], strict=True)`. Which sign has a step downwards?
# </details>
#
# <details><summary>Hint 2</summary>
#
# The denoiser is called twice for each step, but once in the step to zero. In the second call
# both its
# arguments are new.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def ode(denoise: Callable, z: Tensor, sigmas: Tensor) -> Tensor:
    for sigma, below in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (z - denoise(z, sigma)) / sigma
        trial = z + (below - sigma) * slope
        if below > 0:
            slope = (slope + (trial - denoise(trial, below)) / below) / 2
        z = z + (below - sigma) * slope
    return z


assert checks.check_ode(ode)

# %%
if checks.check_ode(my_ode):
    ode = my_ode


@torch.no_grad()
def ancestral(denoise: Callable, z: Tensor, sigmas: Tensor, variance: Tensor) -> Tensor:
    """The model's own steps; sigmas (T + 1,) rises from 0, z (n, 2) lies at its top."""
    for i in range(len(sigmas) - 1, 0, -1):
        high, low = sigmas[i].item(), sigmas[i - 1].item()
        mean, _ = step_back(z, denoise(z, high), high, low)
        z = mean + variance[i - 1].item() ** 0.5 * torch.randn_like(z)
    return z


# %% [markdown] slideshow={"slide_type": "subslide"}
# **The judge.** Train a classifier to tell samples from data, as in the notebook on flows. Its
# accuracy on
# held-out points is one half if it cannot. Beside it: the share of points that **strayed**, to
# where the true density is below 0.001.


# %%
def told_apart(drawn: Tensor) -> float:
    """Held-out accuracy of nearest neighbours, samples against test points."""
    n = len(drawn)
    x = torch.cat((x_test[:n], drawn.to(x_test))).cpu().numpy()
    is_data, training = np.arange(2 * n) < n, np.arange(2 * n) % 2 == 0
    judge = KNeighborsClassifier(50).fit(x[training], is_data[training])
    return float(judge.score(x[~training], is_data[~training]))


def strayed(x: Tensor) -> float:
    return (true_log_prob(x) < math.log(1e-3)).double().mean().item()


# %% [markdown]
# **Predict first:** ten passes of the network for each sample: ten ancestral steps, or five of
# Heun's. Which way strays
# more?

# %%
predict("ten_passes", "the ancestral steps", "the ODE", "both alike")

# %%
torch.manual_seed(SEED)
start = centre + TOP * torch.randn(5000, 2, device=device)
passes, samples = [10, 20, 40, 100], {}
with torch.no_grad():
    for n in passes:
        for kind, variance in zip(("best", "of the step up"), variances(levels(n)), strict=True):
            samples[f"ancestral, {kind}", n] = ancestral(denoiser, start, levels(n), variance)
        samples["ODE", n] = ode(denoiser, start, levels(n // 2).flip(0))
    samples["ODE, exact denoiser", 100] = ode(exact_denoiser, start, levels(50).flip(0))
judged = {key: (told_apart(x), strayed(x)) for key, x in samples.items()}
accuracy_error = 0.5 / len(start) ** 0.5

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Four clouds of samples, three with ten passes. Both kinds of ancestral steps leave points around the moons; the ODE's lie on thin moons, unevenly. The fourth, the ODE with a hundred passes, looks like the data."
table = "| sampler | passes | told apart | strayed |\n" + "| --- " * 4 + "|"
for (name, n), (accuracy, off) in sorted(judged.items()):
    table += f"\n| {name} | {n} | {accuracy:.3f} | {off:.2%} |"
table += f"\n| test points | | 0.5 | {strayed(x_test):.2%} |"
display(Markdown(f"{table}\n\nTold apart: ± {accuracy_error:.3f}."))
fig, axes = plt.subplots(1, 4, figsize=(12, 2.6), sharex=True, sharey=True)
pictures = [(name, 10) for name in ("ancestral, of the step up", "ancestral, best", "ODE")]
for ax, key in zip(axes, [*pictures, ("ODE", 100)], strict=True):
    _ = ax.plot(*samples[key][:2000].T.cpu(), ".", ms=2, color=PALETTE["blue"], rasterized=True)
    _ = ax.set(title=f"{key[0]}: {key[1]}", xlabel="$x_1$", xlim=(-2, 3), ylim=(-1.3, 1.8))
    _ = ax.title.set_fontsize(11)
_ = axes[0].set_ylabel("$x_2$")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("ten_passes", "the ancestral steps", "Each adds Gaussian noise, where the truth is bent.")
assert judged["ancestral, best", 10][1] > judged["ODE", 10][1] + 0.005, EXPECTED
assert judged["ODE", 100][0] < 0.54 and judged["ODE, exact denoiser", 100][0] < 0.53, EXPECTED
best, wide = variances(levels(100))
cost = best / wide - 1 - (best / wide).log()
high = (cost[levels(100)[1:] > 1].sum() / cost.sum()).item()
for n in (10, 100):
    top = (x := samples["ODE", n])[x[:, 1] > 0.7]  # of the upper moon: its distance from (0, 0)
    print(f"ODE, {n} passes: width of the moon {top.norm(dim=-1).std():.3f}, true {NOISE}")
print(f"of the part called variance, {high:.0%} is paid at levels above 1")
assert high > 0.6

# %% [markdown]
# Two judges, two verdicts: with ten passes the ancestral steps stray more, and yet the classifier
# finds the ODE's
# samples more easily. The last step of Heun's rule returns $\hat x$, a mean, so after few steps
# its moons are too thin. With many passes all ways become alike. What still strays is the
# network's doing:
# with the exact denoiser the ODE strays as little as the data. And the variances that cost so
# many nats? The samples hardly show
# it. That price is paid at high levels, and later steps forget it. A bound and an eye judge
# different things.
#
# Walk back by hand. Blue arrows are the exact guess, orange ones the network's:

# %% jupyter={"source_hidden": true}
explore("noise")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 A flow with infinitely many layers
# The ODE maps data to noise, one to one. So it is a flow, and the change of variables gives its
# density. One small step is a layer $f(z) = z + h\,v(z)$, with velocity $v$ and time $t$. Its
# Jacobian is
# $I + h\,\partial v/\partial z$. For small $h$ only the diagonal counts in the determinant,
# $$\log\left|\det\Bigl(I + h\,\frac{\partial v}{\partial z}\Bigr)\right| = h \sum_j \frac{\partial v_j}{\partial z_j} + O(h^2).$$
# That sum is the **divergence** $\nabla \cdot v$. Layers add up; in the limit the sum is an
# integral along the path,
# $$\log p(x) = \log p_\text{base}(z_\text{end}) + \int \nabla \cdot v(z_t, t)\,dt.$$
# This is a *continuous normalizing flow* (Chen and others 2018). A triangular Jacobian is no
# longer needed.
# In the plane we take the divergence by autograd; in high dimension, estimates of it (Grathwohl
# and others 2019).
#
# The classical Runge–Kutta rule follows the path, four evaluations for each step:


# %%
def solve(rate: Callable, state: Tensor, times: Tensor) -> Tensor:
    """Follow d state / dt = rate(state, t) along times (T + 1,); state (n, anything)."""
    for t, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h = after - t
        first = rate(state, t)
        second = rate(state + h / 2 * first, t + h / 2)
        third = rate(state + h / 2 * second, t + h / 2)
        fourth = rate(state + h * third, after)
        state = state + h / 6 * (first + 2 * second + 2 * third + fourth)
    return state


# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 4: the density (20 minutes)
# Write the log density of `x` under such a flow. `velocity(z, t)` gives $(n, d)$, each row from
# its own
# $z$; `times` leads from the data to the base; `log_base(z)` gives $(n,)$. `solve` takes a state
# with as many columns as you like.


# %% tags=["exercise"]
def my_flow_log_prob(velocity: Callable, x: Tensor, times: Tensor, log_base: Callable) -> Tensor:
    """x (n, d) -> log density (n,), in nats."""
    return ...


checks.check_flow_log_prob(my_flow_log_prob)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Let the state have $d + 1$ columns: the point, and the integral so far, which begins at 0. What
# is the rate of the last column?
# </details>
#
# <details><summary>Hint 2</summary>
#
# `torch.autograd.grad(v[:, j].sum(), z, retain_graph=True)[0]` is $\partial v_j / \partial z$,
# shape
# $(n, d)$, since rows do not see each other. Which column of it belongs to the divergence? `z`
# needs
# `.detach().requires_grad_()` first, and the rate should be detached.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def flow_log_prob(velocity: Callable, x: Tensor, times: Tensor, log_base: Callable) -> Tensor:
    d = x.shape[1]

    def rate(state: Tensor, t: float) -> Tensor:
        z = state[:, :d].detach().requires_grad_()
        v = velocity(z, t)
        slopes = [torch.autograd.grad(v[:, j].sum(), z, retain_graph=True)[0] for j in range(d)]
        divergence = sum(slope[:, j] for j, slope in enumerate(slopes))  # (n,)
        return torch.cat((v, divergence[:, None]), -1).detach()

    end = solve(rate, torch.cat((x, torch.zeros_like(x[:, :1])), -1), times)
    return log_base(end[:, :d]) + end[:, d]


assert checks.check_flow_log_prob(flow_log_prob)

# %%
if checks.check_flow_log_prob(my_flow_log_prob):
    flow_log_prob = my_flow_log_prob

# %% [markdown] slideshow={"slide_type": "subslide"}
# Here time is $\sigma$, and $v = (z - \hat x)/\sigma$. The base is the prior of section 2. At
# $\sigma = 0$ we
# take a thousandth. For the exact denoiser the derivatives are known, too:
# $\partial \hat x/\partial z$ is the covariance of $x$ over $\sigma^2$.


# %%
def log_normal(z: Tensor, mean: Tensor | float, scale: float) -> Tensor:
    """Log density of N(mean, scale² I) in the plane, (n, 2) -> (n,)."""
    return -((z - mean) ** 2).sum(-1) / (2 * scale**2) - math.log(2 * math.pi * scale**2)


def log_top(z: Tensor) -> Tensor:
    return log_normal(z, centre.to(z), TOP)


def learnt_velocity(z: Tensor, sigma: float) -> Tensor:
    sigma = max(sigma, 1e-3)
    return (z - denoiser(z, sigma)) / sigma


def exact_field(z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Velocity (n, 2) and its derivatives (n, 2, 2)."""
    sigma = max(sigma, 1e-3)
    mean, covariance = exact(z, sigma)
    return (z - mean) / sigma, (torch.eye(2).to(z) - covariance / sigma**2) / sigma


def exact_log_prob(x: Tensor, times: Tensor) -> Tensor:
    def rate(state: Tensor, sigma: float) -> Tensor:
        v, slope = exact_field(state[:, :2], sigma)
        return torch.cat((v, slope.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True)), -1)

    end = solve(rate, torch.cat((x.double(), torch.zeros(len(x), 1).to(x)), -1), times)
    return log_top(end[:, :2]) + end[:, 2]


def gap_to_truth(log_q: Tensor) -> tuple[float, float]:
    """Paired gap on the first test points, and its standard error, in nats."""
    mean, error = mean_and_error((true_log_prob(x_test[: len(log_q)]) - log_q).double())
    return mean.item(), error.item()


# %% [markdown]
# **Predict first:** the exact field, and 40 evaluations of it, ten steps. How far is the density
# from the truth?

# %%
predict("forty", "about 1 nat", "a few hundredths of a nat", "less than a millionth")

# %%
evaluations, x = [20, 40, 60, 100], x_test[:4000]
curves = {"exact field": [], "network": []}
for n in evaluations:
    times = levels(n // 4)
    curves["exact field"].append(gap_to_truth(exact_log_prob(x, times)))
    log_q = flow_log_prob(learnt_velocity, x, times, log_top)
    curves["network"].append(gap_to_truth(torch.as_tensor(log_q)))
log_q = torch.as_tensor(flow_log_prob(learnt_velocity, x_test, levels(25), log_top))
diffusion_gap = gap_to_truth(log_q)

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
table = "| evaluations | " + " | ".join(map(str, evaluations)) + " |\n" + "| --- " * 5 + "|"
for name, row in curves.items():
    table += f"\n| {name} | " + " | ".join(f"{gap:.4f} ± {e:.4f}" for gap, e in row) + " |"
table = table.replace("-0.", "−0.")
display(Markdown(table + "\n\nGap to the truth by the ODE, in nats, on 4,000 test points."))
print("network, all test points: {:.4f} ± {:.4f} nats".format(*diffusion_gap))

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("forty", "a few hundredths of a nat", "A hundred evaluations leave less than a thousandth.")
assert abs(curves["exact field"][-1][0]) < 1.5e-3, EXPECTED
assert 0.005 < abs(curves["exact field"][1][0]) < 0.1, EXPECTED
assert 0 < diffusion_gap[0] < 0.04, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# Gaps below zero? No density can beat the truth. But with finite steps the integral is not quite
# the determinant of the
# map that was computed, so what comes out is not quite a density. A test of the steps: double
# their number.
#
# The network's gap belongs beside those of the notebook on flows, over five seeds each:
#
# <details><summary>Open the table</summary>
#
# {{flows of the plane}}
#
# </details>
#
# ### Where the thread has gone
# That notebook found a thin thread between the moons, the price of bounded steepness: a map that
# stretches by at most $L$
# leaves a minimum between two pieces. The ODE's map is a flow, too. How steep is it?
#
# **Predict first:** we follow points on a line from one moon to the other, and measure how much
# the way back stretches there, in units of a standard normal $z$. What is the largest factor,
# with the exact field?

# %%
predict("steepest", "about 10", "about 1,000", "more than 10,000")


# %%
def learnt_field(z: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_()
    v = learnt_velocity(z, sigma)
    slope = [torch.autograd.grad(v[:, j].sum(), z, retain_graph=True)[0] for j in (0, 1)]
    return v.detach(), torch.stack(slope, 1)


def steepness(field: Callable, x: Tensor, times: Tensor) -> Tensor:
    """Largest stretch at x (n, 2) of the map from z / TOP back to x, (n,)."""

    def rate(state: Tensor, sigma: float) -> Tensor:
        v, slope = field(state[:, :2], sigma)
        return torch.cat((v, (slope @ state[:, 2:].unflatten(1, (2, 2))).flatten(1)), -1)

    start = torch.cat((x, torch.eye(2).to(x).flatten().expand(len(x), 4)), -1)
    jacobian = solve(rate, start, times)[:, 2:].unflatten(1, (2, 2))  # of z with respect to x
    return TOP / torch.linalg.svdvals(jacobian)[:, -1]


height = torch.linspace(0.35, 1.15, 161, dtype=torch.double, device=device)
line = torch.stack((0 * height, height), -1)  # from the end of one moon to the top of the other
steep = {"exact field": steepness(exact_field, line, levels(60))}
steep["network"] = steepness(learnt_field, line.float(), levels(60))
typical = steepness(exact_field, x_test[:500].double(), levels(30)).median()

# %%
on_line = {"exact field": true_log_prob(line)}
on_line["network"] = torch.as_tensor(
    flow_log_prob(learnt_velocity, line.float(), levels(60), log_top)
)
torch.manual_seed(SEED)
many = centre + TOP * torch.randn(20_000, 2, device=device)
with torch.no_grad():
    seen = strayed(ode(denoiser, many, levels(50).flip(0)))
print(f"strayed: {seen:.2%} of 20,000 samples of the network, {strayed(x_test):.2%} of the data")

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Two curves along a line from one moon to the other, logarithmic. Left, the largest stretch: near one on both moons, and a peak between them, for the exact field of tens of thousands, for the network of a few dozen. Right, the density: between the moons the truth falls to about a millionth, the network's only to about a hundredth."
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), sharex=True)
for (name, values), colour in zip(steep.items(), ("black", "orange"), strict=True):
    _ = left.semilogy(height.cpu(), values.cpu(), color=PALETTE[colour], label=name)
    _ = right.semilogy(height.cpu(), on_line[name].cpu().exp(), color=PALETTE[colour])
    print(
        f"{name}: largest stretch {values.max():,.0f}; least density {on_line[name].min().exp():.1e}"
    )
for ax, label in ((left, "largest stretch"), (right, "density (per unit area)")):
    _ = ax.set(xlabel="$x_2$, at $x_1 = 0$ (grey: the moons)", ylabel=label)
    for place in (0.5, 1.0):
        _ = ax.axvspan(place - 0.1, place + 0.1, color=PALETTE["grey"], alpha=0.2, lw=0)
_ = left.legend()
print(f"exact field, median stretch at test points: {typical:.1f}")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("steepest", "more than 10,000", "The way back must part neighbours: each goes to one moon.")
assert steep["exact field"].max() > 1e4 and typical < 3, EXPECTED
assert steep["network"].max() < 0.1 * steep["exact field"].max(), EXPECTED
assert on_line["network"].min() > on_line["exact field"].min() + 3, EXPECTED

# %% [markdown]
# Density is base density over stretch, in both directions together. The exact map has a thread,
# too, far too thin to be met: where points part, it pulls
# neighbours away from each other exponentially fast. The network is smoother. Its map stretches
# less, so its density between the moons stays too high, and a few samples
# in a thousand lie there. **A bijection pays for what it does not stretch, whatever it is
# called.** (Ancestral sampling is no bijection: chance moves points across.)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Flow matching
# Must a flow come from noise levels? Choose any path from data to noise. The simplest is straight,
# $$z_t = (1 - t)\,x + t\,\varepsilon, \qquad 0 \le t \le 1.$$
# The *conditional* velocity, of one pair $x, \varepsilon$, is $\varepsilon - x$. But many pairs
# cross at one place $z$, and a flow has one velocity there. The right one is the **marginal
# velocity**, the mean over
# all pairs that pass,
# $$v(z, t) = E[\varepsilon - x \mid z_t = z].$$
# Why is it right? How fast a density changes depends on the flux through each place, and the flux
# of many is the sum of all. So the mean velocity moves
# the whole density as all pairs do. And how does one learn a conditional mean? By regression on
# $\varepsilon - x$ itself, as in section 3. That
# is **flow matching** (Lipman and others 2023; Liu and others 2023; Albergo and Vanden-Eijnden
# 2023). No ODE is solved during training.
#
# ### Exercise 5: its loss (10 minutes)
# The mean squared error over points and coordinates, without weights.


# %% tags=["exercise"]
def my_matching(velocity: Callable, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x, eps (n, d), t (n, 1) -> loss ()."""
    return ...


checks.check_flow_matching(my_matching)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint</summary>
#
# What does `velocity` see, at which time? The target does not depend on that time. Where does the
# path start at $t = 0$?
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def matching(velocity: Callable, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    return ((velocity((1 - t) * x + t * eps, t) - (eps - x)) ** 2).mean()


assert checks.check_flow_matching(matching)

# %%
if checks.check_flow_matching(my_matching):
    matching = my_matching

# %% [markdown] slideshow={"slide_type": "subslide"}
# **It is the same thing.** Divide $z_t$ by $1 - t$: it is $x + \sigma \varepsilon$ with
# $\sigma = t/(1 - t)$. From
# $\varepsilon - x = (z_t - x)/t$ follows $v = (z_t - \hat x)/t$. So the exact velocity is known
# here, too,
# and the squared error of $v$ is that of $\hat x$, over $t^2$: the same regression with other
# weights, another output of the network,
# and other levels. Plain flow matching draws $t$ uniformly.
#
# **Predict first:** the same hidden layers, steps and batch as for the denoiser. The gap of plain
# flow matching is …

# %%
predict("straight", "smaller: straight paths are easier", "the same", "larger")


# %%
class Velocity(nn.Module):
    """v(z, t) for z (n, 2) and a time, one for all or (n, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(3)

    def forward(self, z: Tensor, t: Tensor | float) -> Tensor:
        return self.net(torch.cat((z, torch.as_tensor(t).to(z).expand(len(z), 1)), -1))


def uniform_times(n: int, like: Tensor) -> Tensor:
    return ((torch.arange(n).to(like) + torch.rand(n).to(like)) / n)[:, None]


def times_of_levels(n: int, like: Tensor) -> Tensor:
    sigma = random_levels(n, like)
    return sigma / (1 + sigma)


def fit_velocity(draw: Callable) -> tuple[Velocity, float]:
    """Flow matching with times from draw; the network and its seconds."""
    torch.manual_seed(SEED)
    model, start = Velocity().to(device), time.perf_counter()
    _ = train(model, lambda v, x: matching(v, x, torch.randn_like(x), draw(len(x), x)), x_train)
    return model, time.perf_counter() - start


# %%
fits = {"flow matching, $t$ uniform": fit_velocity(uniform_times)}

# %% [markdown]
# What differs from the denoiser: the levels, and the network's input, output and weights. An
# experiment changes one thing: we
# give flow matching the *levels* of section 3, through $t = \sigma/(1 + \sigma)$, and nothing else.

# %%
fits["flow matching, levels of section 3"] = fit_velocity(times_of_levels)

# %% slideshow={"slide_type": "subslide"}
times = NOISE * torch.sinh(torch.linspace(0, math.asinh(1 / NOISE), 26, dtype=torch.double))
rivals = {"diffusion (section 5)": (diffusion_gap, denoiser)}
for name, (model, seconds) in fits.items():
    log_q = flow_log_prob(model, x_test, times, lambda z: log_normal(z, 0.0, 1.0))

    def guess(z: Tensor, sigma: float, v: Velocity = model) -> Tensor:
        t = sigma / (1 + sigma)
        return (1 - t) * z - t * v((1 - t) * z, t)  # x_hat = z_t - t v

    rivals[name] = gap_to_truth(torch.as_tensor(log_q)), guess
    print(f"{name}: {seconds:.0f} s of training")

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Squared error of the guess beside the exact one, over the square of the noise level, against the noise level, for three networks. Plain flow matching is highest below 0.3; with the levels of section 3 it comes down to the curve of diffusion. Above 1 all are alike."
table = "| | gap by the ODE (nats) | passes at $\\sigma$ below 0.3 |\n| --- | --- | --- |"
share = math.asinh(0.3 / NOISE) / math.asinh(TOP / NOISE)
shares, marks = [share, 0.3 / 1.3, share], iter(("-", "--", ":"))
for (name, ((gap, e), _)), part in zip(rivals.items(), shares, strict=True):
    table += f"\n| {name} | {gap:.4f} ± {e:.4f} | {part:.0%} |"
display(Markdown(table))
torch.manual_seed(SEED)
fig, ax = plt.subplots(figsize=(8, 3.4))
for name, (_, guess) in rivals.items():
    off = []
    for sigma in shown.tolist():
        z = x_test[:2000] + sigma * torch.randn_like(x_test[:2000])
        miss = guess(z, sigma) - exact_denoiser(z, sigma)
        off.append((miss**2).mean().item() / sigma**2)
    _ = ax.loglog(shown, off, next(marks), label=name)
_ = ax.set(xlabel=r"noise level $\sigma$", ylabel=r"squared error / $\sigma^2$", ylim=(1e-6, 1))
_ = ax.legend(fontsize=10)

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("straight", "larger", "Not the paths: the levels at which it practises.")
one, plain, moved = (gap for (gap, _), _ in rivals.values())
assert plain > one and plain > moved, EXPECTED
assert abs(moved - one) < 0.03, EXPECTED

# %% [markdown]
# Uniform times seldom fall where the moons have their detail. With the levels of section 3
# the gap comes down to that of diffusion, more or less. So neither straight paths nor
# the name matter here: **what matters is at which noise levels a network practises.**

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Which moon, please?
# Conditioning is easy: give the network a label, and it learns $\hat x(z, \sigma, \text{moon})$.
# Image generators go further and exaggerate the difference
# that the label makes. This is **guidance** (Ho and Salimans 2022), with a weight $w$.
#
# ### Exercise 6: guidance (5 minutes)
# Let the guess go from $\hat x$, without label, towards the one with label: $w = 0$ ignores the
# label, $w = 1$ obeys it, and $w = 3$ goes three times as far, in the
# same direction. `everything` and `labelled` are denoisers.


# %% tags=["exercise"]
def my_guess(z: Tensor, sigma: float, everything: Callable, labelled: Callable, w: float) -> Tensor:
    """z (n, d) -> guided guess (n, d)."""
    return ...


checks.check_guidance(my_guess)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint</summary>
#
# A straight line through two points, with $w$ as its parameter. Where is it at 0, where at 1?
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def guided(z: Tensor, sigma: float, everything: Callable, labelled: Callable, w: float) -> Tensor:
    base = everything(z, sigma)
    return base + w * (labelled(z, sigma) - base)


assert checks.check_guidance(guided)

# %%
if checks.check_guidance(my_guess):
    guided = my_guess

# %% [markdown] slideshow={"slide_type": "subslide"}
# It is often said that guidance samples from $p(x)\,p(\text{moon} \mid x)^w$, normalised: a
# posterior with a stronger likelihood. Put to the test, with exact denoisers, on the upper moon.
#
# **Predict first:** nobody doubts to which moon a point belongs: $p(\text{moon} | x)$ is
# practically one on it. So that density is the upper moon itself, whatever $w$. And
# the samples, for $w = 3$?

# %%
predict("guidance", "spread evenly over the upper moon", "missing on a part of it", "on both moons")


# %%
def upper(z: Tensor, sigma: float) -> Tensor:
    return exact(z, sigma, moon=0)[0].to(z.dtype)


torch.manual_seed(SEED)
start = centre + TOP * torch.randn(2000, 2, device=device)
steered = {}
for w in (1.0, 3.0):
    steered[w] = ode(
        lambda z, s, w=w: guided(z, float(s), exact_denoiser, upper, w), start, levels(30).flip(0)
    )

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Left: guided samples with weight 1 cover the whole upper moon; with weight 3 they lie on its left two thirds, slightly outside. Right: histogram of the angle: flat for weight 1, for weight 3 empty at small angles and high at large ones."
moons = make_two_moons(20_000, noise=NOISE, seed=400 + SEED)
ours = moons.x[moons.moon == 0]
c, weight = on_curves(0.0, 0, ours.double())
of_upper = torch.logsumexp(weight.log() - torch.cdist(ours.double(), c) ** 2 / (2 * NOISE**2), -1)
of_upper = of_upper - math.log(2 * math.pi * NOISE**2)
sure = (of_upper + math.log(0.5) - true_log_prob(ours.double())).exp().min().item()
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4))
low = {}
for (w, x), colour in zip(steered.items(), ("sky", "orange"), strict=True):
    x = x.cpu()
    _ = left.plot(*x.T, ".", ms=3, color=PALETTE[colour], label=f"w = {w:g}", rasterized=True)
    angle = torch.atan2(x[:, 1], x[:, 0]).remainder(2 * math.pi)
    angle = torch.where(angle > 1.5 * math.pi, angle - 2 * math.pi, angle)
    low[w] = (angle < math.pi / 4).double().mean().item()
    style = {"histtype": "step", "lw": 2, "color": PALETTE[colour], "density": True}
    _ = right.hist(angle, 30, range=(-0.2, math.pi + 0.2), label=f"w = {w:g}", **style)
_ = left.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
_ = left.legend(loc=8)  # below, in the middle
_ = right.set(xlabel="angle (radians)", ylabel="density (per radian)")
_ = right.legend()
print(f"smallest p(moon | x) over {len(ours):,} points of the moon: {sure:.6f}")
print(
    ", ".join(f"w = {w:g}: {part:.1%} in the first quarter of the angle" for w, part in low.items())
)

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("guidance", "missing on a part of it", "The end beside the other moon is deserted.")
assert sure > 0.999 and abs(low[1.0] - 0.25) < 0.05 and low[3.0] < 0.05, EXPECTED

# %% [markdown]
# Guidance is **not** a posterior. At every level it sharpens the *blurred* problem, in which the
# moons overlap. Blurring a sharpened density and sharpening a blurred
# one are two things. It makes typical samples of a class, and pays with variety.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Back to the lecture
# | | Bayesian network | VAE | flow | diffusion, flow matching |
# | --- | --- | --- | --- | --- |
# | hidden | weights $w$ | a short code $z$ | $z$, as wide as $x$ | a noisy copy at every level |
# | $q$ | trained guide of $p(w \mid y)$ | trained encoder | none: $z = f(x)$ | fixed: add noise |
# | trained by | ELBO | ELBO | likelihood | regression (a weighted ELBO) |
# | score | bound | bound | exact | bound, or exact by the ODE |
# | one sample costs | one pass | one pass | one pass | dozens of passes |
# | gap | the guide's family; too few steps | encoder, decoder | the map's family | steps, variance, top, learning |
#
# Twice a bound, twice a change of variables. Diffusion is both at once.

# %% jupyter={"source_hidden": true}
row = found[1000, TOP]
display(
    Markdown(
        f"""**What you saw.**
* With the exact denoiser and {1000:,} steps the ELBO falls short by {row["steps"] + row["top"]:.4f}
  nats, with ten by {found[10, TOP]["steps"] + found[10, TOP]["top"]:.2f}.
* The network's errors add {row["learning"]:.3f} nats to that. By the ODE its gap is
  {diffusion_gap[0]:.3f} ± {diffusion_gap[1]:.3f} nats.
* With a hundred passes a classifier tells its samples apart in {judged["ODE", 100][0]:.1%} of cases.
* The exact ODE stretches by up to {steep["exact field"].max():,.0f}: the thread is not met.
* Plain flow matching: {plain:.3f} nats; with other noise levels {moved:.3f}.
* Guidance with $w = 3$ left {low[3.0]:.1%} of the samples in a quarter of the moon."""
    )
)

# %% tags=["slides"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
publish(
    short=f"{row['steps'] + row['top']:.3f}",
    learning=f"{row['learning']:.3f}",
    ode="{:.3f} ± {:.3f}".format(*diffusion_gap),
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Left out:** images (a network with convolutions or attention, often on the codes of a
# VAE: *latent diffusion*); discrete data; learnt schedules; few-step
# samplers; proofs.
#
# **In practice.** Take a library. Choose the noise levels with care, and plot the error over
# them. Say
# with how many passes a sample was made. A number from an ODE needs a test with twice the steps.
#
# **Further reading.**
#
# | | |
# | --- | --- |
# | the idea | Sohl-Dickstein and others 2015, [arXiv:1503.03585](https://arxiv.org/abs/1503.03585) |
# | diffusion as in image generators | Ho, Jain, Abbeel 2020, [arXiv:2006.11239](https://arxiv.org/abs/2006.11239) |
# | the ODE, continuous time | Song and others 2021, [arXiv:2011.13456](https://arxiv.org/abs/2011.13456) |
# | the bound, learnt levels | Kingma and others 2021, [arXiv:2107.00630](https://arxiv.org/abs/2107.00630) |
# | the best variance | Bao and others 2022, [arXiv:2201.06503](https://arxiv.org/abs/2201.06503) |
# | preconditioning, Heun, levels | Karras and others 2022, [arXiv:2206.00364](https://arxiv.org/abs/2206.00364) |
# | score matching | Hyvärinen 2005, J. Mach. Learn. Res. 6, 695–709 |
# | denoising score matching | Vincent 2011, Neural Comput. 23, 1661–1674 |
# | continuous flows | Chen and others 2018, [arXiv:1806.07366](https://arxiv.org/abs/1806.07366) |
# | estimated divergence | Grathwohl and others 2019, [arXiv:1810.01367](https://arxiv.org/abs/1810.01367) |
# | flow matching | Lipman and others 2023, [arXiv:2210.02747](https://arxiv.org/abs/2210.02747) |
# | straight paths | Liu, Gong, Liu 2023, [arXiv:2209.03003](https://arxiv.org/abs/2209.03003) |
# | paths between any two densities | Albergo, Vanden-Eijnden 2023, [arXiv:2209.15571](https://arxiv.org/abs/2209.15571) |
# | guidance | Ho, Salimans 2022, [arXiv:2207.12598](https://arxiv.org/abs/2207.12598) |
# | classifier two-sample tests | Lopez-Paz, Oquab 2017, [arXiv:1610.06545](https://arxiv.org/abs/1610.06545) |

# %% tags=["progress"]
progress.show("outlook_diffusion")
