# %% [markdown] slideshow={"slide_type": "slide"}
# # {{title}}
# *Bayesian Statistical Learning, Lecture 4: Deep learning architectures*
#
# {{picture}}
#
# A bent coin shows heads nine times in ten throws. **How sure may you be that heads is the likelier
# side?** Bayes' theorem answers in one line on paper. Here a computer finds the same answer without
# that line, which is what you need for a neural network, where no such line exists.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you will do.** Write a model of the coin and an approximation of its posterior, train it,
# and hold every result beside the exact one.
#
# **What you will learn.** Tensors and gradients (PyTorch); distributions, models and variational
# inference (Pyro): what the other notebooks take for granted.
#
# **What you need.** NumPy and Bayes' theorem. Neither PyTorch nor Pyro, and no GPU.
#
# {{ways}}; each says how long.
#
# {{timetable}}
#
# **Data.** Ten throws, made up. The numbers of heads and tails stand in the cell of parameters.

# %%
import course_utils  # noqa: F401 - before torch: it decides how threads wait

# %% jupyter={"source_hidden": true}
import math

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from IPython.display import Markdown, display
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import ClippedAdam
from scipy import stats
from scipy.integrate import quad
from scipy.special import betaln

from course_utils import progress
from course_utils.checks import first as checks
from course_utils.plotting import PALETTE, use_course_style
from course_utils.predictions import answer, predict
from course_utils.runtime import bar, get_device, seed_everything, set_threads
from course_utils.validation import is_whole, require

# %% tags=["parameters"]
SEED = 0
DEVICE = "auto"  # of section 2; all else is so small that it stays on the CPU
THREADS = 1  # more would only wait for each other
HEADS = 9
TAILS = 1
STEPS = 500  # of stochastic variational inference
DRAWS = 600  # of NUTS

# %% jupyter={"source_hidden": true}
EXPECTED = "expected with the parameters as they stand in the notebook"
require(is_whole(HEADS, 0), "HEADS", "a whole number of at least 0", HEADS)
require(is_whole(TAILS, 0), "TAILS", "a whole number of at least 0", TAILS)
require(HEADS + TAILS > 0, "HEADS + TAILS", "at least one throw", HEADS + TAILS)
require(is_whole(STEPS, 100), "STEPS", "a whole number of at least 100", STEPS)
require(is_whole(DRAWS, 100), "DRAWS", "a whole number of at least 100", DRAWS)
seed_everything(SEED)
device = get_device(DEVICE)
_ = set_threads(THREADS)
use_course_style()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 The answer on paper
# Let $\theta$ be the probability of heads: a number between 0 and 1, without a unit. A throw $y_i$
# is 1 for heads and 0 for tails; $h$ of the $n$ throws are heads.
#
# - **Prior:** $p(\theta) = \text{Beta}(\theta; 2, 2) = 6\,\theta(1-\theta)$. Before the first throw
#   both sides are equally likely, and extreme coins are rare.
# - **Likelihood:** $p(y \mid \theta) = \prod_i \theta^{y_i}(1-\theta)^{1-y_i}
#   = \theta^h (1-\theta)^{n-h}$.
# - **Posterior:** prior times likelihood is $6\,\theta^{h+1}(1-\theta)^{n-h+1}$. Up to a factor,
#   that is a Beta density again: $p(\theta \mid y) = \text{Beta}(\theta; 2+h, 2+n-h)$.
# - **Evidence:** $p(y) = \int_0^1 p(y \mid \theta)\,p(\theta)\,d\theta$, the probability that the
#   whole model gives to just these throws in this order. It is that factor, a ratio of two of
#   Euler's beta functions: $B(2+h, 2+n-h)/B(2, 2)$.

# %% slideshow={"slide_type": "subslide"}
throws = np.array([1] * HEADS + [0] * TAILS)  # (n,) 1 means heads
n = len(throws)
exact = stats.beta(2 + HEADS, 2 + TAILS)
log_evidence = betaln(2 + HEADS, 2 + TAILS) - betaln(2, 2)  # nats
area, _ = quad(lambda t: 6 * t * (1 - t) * t**HEADS * (1 - t) ** TAILS, 0, 1)
assert math.isclose(math.exp(log_evidence), area, rel_tol=1e-6)

# %%
fair = n * math.log(1 / 2)  # log probability of the throws if the coin is exactly fair, nats
ratio = math.exp(log_evidence - fair)
print(f"P(theta > 1/2 | throws) = {exact.sf(0.5):.4f}")
print(f"log evidence {log_evidence:.3f} nats, of an exactly fair coin {fair:.3f} nats")
print(f"the throws are {ratio:.1f} times as probable under our model as under the fair coin")

# %% [markdown]
# The first line answers our question, and is the truth for all that follows.
#
# The **nat** is the unit of natural logarithms, as the bit is that of logarithms to base 2 (1 nat =
# 1.44 bits). One nat more means $e \approx 2.7$ times as probable.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 Tensors beside arrays
# A PyTorch **tensor** is an array that can do two things more. It can live on a graphics card (its
# *device*), and it can remember how it was computed (section 3). Indexing, slicing and broadcasting
# are NumPy's. Some habits fail:
#
# | NumPy | PyTorch |
# | --- | --- |
# | decimal numbers have 64 bits | 32 bits, unless you say `dtype=torch.float64` |
# | `x.astype(float)` | `x.double()`; `x.float()` for 32 bits |
# | whole numbers have a mean | an error: first `x.float()` |
# | `x.std()` divides by $n$ | by $n-1$; `x.std(correction=0)` divides by $n$ |
# | `x.max(axis=0)` | gives values *and* places; `x.amax(0)` gives values |
# | `x[::-1]` | an error: `x.flip(0)` |
# | `x.copy()` | `x.clone()` |
# | all arrays live together | tensors on two devices do not mix: `x.to(device)` |

# %%
x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]], device=device)  # (2, 3)
assert x.dtype == torch.float32 and x.device.type == device.type
assert (x - x.mean(0)).shape == (2, 3)  # broadcasting: (2, 3) minus (3,)
assert x.amax(0).tolist() == [4, 5, 9]
array = x.cpu().numpy()  # and back; the array may share the tensor's memory
y = torch.from_numpy(array)  # this one does
y[0, 0] = 7
assert array[0, 0] == 7

# %%
for wrong in (lambda: torch.tensor([1, 2]).mean(), lambda: x[::-1]):
    try:
        wrong()
    except (RuntimeError, ValueError) as error:
        print(f"{type(error).__name__}: {str(error)[:90]}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 1: Bayes' theorem on a grid (6 minutes)
# Compute the posterior without knowing that it is a Beta density. `theta` $(s,)$ is a tensor of
# equally spaced values in $(0, 1)$, `throws` $(n,)$ an *array* of zeros and ones. Write
# `my_posterior(theta, throws)`: the posterior density at each value, $(s,)$, scaled so that the sum
# of the values times the spacing of the grid is 1. It should work for 5,000 throws, too.


# %% tags=["exercise"]
def my_posterior(theta, throws):
    return ...


checks.check_posterior(my_posterior)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `torch.as_tensor(throws)` makes a tensor. Throws as a column $(n, 1)$ (by `[:, None]`) and values
# as a row $(s,)$ give all pairs $(n, s)$.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Add logarithms (`theta.log()`): the product of 5,000 probabilities is 0 for a computer. Subtract
# the largest before you take `exp()`.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_posterior(theta, throws):
    y = torch.as_tensor(throws)[:, None]  # (n, 1)
    log_likelihood = (y * theta.log() + (1 - y) * (1 - theta).log()).sum(0)  # (s,)
    log_joint = log_likelihood + (6 * theta * (1 - theta)).log()
    weight = (log_joint - log_joint.max()).exp()
    return weight / (weight.sum() * (theta[1] - theta[0]))


assert checks.check_posterior(course_posterior)

# %%
posterior = my_posterior if checks.check_posterior(my_posterior) else course_posterior
grid = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.double)  # (s,) values of theta
WIDTH = 0.001  # between two of them
density = torch.as_tensor(posterior(grid, throws)).double()
truth = torch.as_tensor(exact.pdf(grid))
print(f"largest error {(density - truth).abs().max():.1e}, largest density {truth.max():.2f}")
assert torch.allclose(density, truth, atol=2e-3 * truth.max())

# %% [markdown]
# With one unknown a grid does the integral well. With two it needs a million points; with the
# hundreds of weights of a small network, more than there are atoms. What follows needs no grid. We
# keep it to judge.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 Gradients
# With `requires_grad=True` we say that we want derivatives by this tensor. All that is computed
# from it remembers how. `backward()` goes back along this memory and leaves the derivative in
# `.grad`.


# %%
def log_likelihood(theta):
    """log p(y | theta) of all throws, nats."""
    return HEADS * theta.log() + TAILS * (1 - theta).log()


guess = torch.tensor(0.4, requires_grad=True)
log_likelihood(guess).backward()
by_hand = HEADS / 0.4 - TAILS / (1 - 0.4)
print(f"PyTorch {guess.grad:.4f}, by hand {by_hand:.4f} nats per unit of theta")
assert math.isclose(guess.grad, by_hand, rel_tol=1e-4, abs_tol=1e-4)

# %% [markdown]
# **Predict first:** the next code begins anew and does the same twice, at the same guess. What is
# in `guess.grad` after the second time?

# %%
predict("second gradient", "the same number", "twice the number", "nothing: the memory is used up")

# %%
guess = torch.tensor(0.4, requires_grad=True)
for _ in range(2):
    log_likelihood(guess).backward()
    print(f"{guess.grad:.4f}")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "second gradient",
    "twice the number",
    "Gradients add up until one forgets them: `guess.grad = None`, or `optimiser.zero_grad()`.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# When the guess is *moved*, the move is no part of the function. Under `with torch.no_grad():`
# nothing is remembered. `x.detach()` has the numbers of `x` without the memory (NumPy wants this
# one), `x.item()` is one number as Python knows it.
#
# ### Exercise 2: uphill (6 minutes)
# Write `my_climb(function, start)`. Begin at a copy of `start`, a tensor of any shape. Take 300
# steps uphill, each 0.1 times the gradient of `function` (it gives one number). Return the place
# reached. `start` itself must stay as it is. (`x.grad = None` forgets the last gradient.)


# %% tags=["exercise"]
def my_climb(function, start):
    return ...


checks.check_climb(my_climb)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `x = start.clone().requires_grad_()` is a copy that wants derivatives.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# In each step: forget the old gradient, compute the new one, and move `x` with `x += …`, which
# PyTorch allows under `no_grad` only.
#
# </details>


# %% tags=["solution"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# Solution
def solution_climb(function, start):
    x = start.clone().requires_grad_()
    for _ in range(300):
        x.grad = None
        function(x).backward()
        with torch.no_grad():
            x += 0.1 * x.grad
    return x.detach()


assert checks.check_climb(solution_climb)

# %% [markdown]
# The next cell climbs the log likelihood with your function. So that no step leaves $(0, 1)$, it
# moves the **logit** $\log\frac{\theta}{1-\theta}$, which may be any number. `sigmoid` leads back.

# %%
if checks.check_climb(my_climb):
    logit = my_climb(lambda z: log_likelihood(z.sigmoid()), torch.tensor(0.0))
    print(f"maximum likelihood {torch.as_tensor(logit).sigmoid():.3f}, heads / n {HEADS / n:.3f}")
else:
    print("Once exercise 2 is right, this cell finds the maximum of the likelihood.")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Distributions and their shapes
# A distribution of Pyro (`dist`) draws with `sample()` and gives log densities with `log_prob(x)`.
# Most errors with Pyro are errors of shape. There are two kinds of axes:
#
# - **event**: the axes of *one* draw whose parts belong together. They have one density.
# - **batch**: several distributions side by side, independent of each other. Each has its own.

# %%
three = dist.Normal(torch.tensor([0.0, 10.0, 20.0]), 1.0)
assert three.batch_shape == (3,) and three.event_shape == ()
joint = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
assert joint.batch_shape == () and joint.event_shape == (3,)
x = three.sample((5,))  # (5, 3) five draws of each, along a new axis on the left
assert x.shape == (5, 3)

# %% [markdown]
# **Predict first:** what is the shape of `three.log_prob(x)`?

# %%
predict("three normals", "one number", "(5,)", "(5, 3)")

# %%
print(tuple(three.log_prob(x).shape))

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("three normals", "(5, 3)", "Only event axes are summed, and `three` has none.")

# %% [markdown] slideshow={"slide_type": "subslide"}
# `to_event(1)` declares the last batch axis to be an event: its log densities are summed. The rule:
# **`log_prob` has the shape of `x` without the event axes.**

# %%
vector = three.to_event(1)
assert vector.batch_shape == () and vector.event_shape == (3,)
assert vector.log_prob(x).shape == (5,)
assert torch.allclose(vector.log_prob(x), three.log_prob(x).sum(-1))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 The coin in Pyro
# A **model** is a function that tells how the data came about. `pyro.sample(name, distribution)`
# draws something under a name: a *site*. With `obs=value` the site is observed instead, unless
# `value` is `None`. A model of the weather: it is cloudy on three days in ten; it rains on 70 % of
# the cloudy days, and on 10 % of the others.


# %%
def weather(rain=None):
    cloudy = pyro.sample("cloudy", dist.Bernoulli(0.3))
    return pyro.sample("rain", dist.Bernoulli(0.1 + 0.6 * cloudy), obs=rain)


trace = poutine.trace(weather).get_trace(torch.tensor(1.0))  # run it, and note every site
trace.compute_log_prob()
for site in ("cloudy", "rain"):
    print(site, trace.nodes[site]["value"].item(), f"{trace.nodes[site]['log_prob_sum']:.3f} nats")

# %% [markdown]
# One function, two uses. It can *draw* a day, and it can *score* one: the sum over the sites is the
# log of the joint density. That is all that inference needs.
#
# Along a batch axis, Pyro wants to be told that the values are independent. That is a **plate**. It
# also widens what is drawn inside it. Knowing it, Pyro may take a subset of the days, or many draws
# at once. An axis that is neither event nor in a plate is an error.

# %%
with pyro.plate("days", 7):
    cloudy = pyro.sample("cloudy", dist.Bernoulli(0.3))
assert cloudy.shape == (7,)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 3: the model of the coin (3 minutes)
# Write `my_model(n, flips=None)`, the story of section 1: one `"theta"` from the prior, then `n`
# independent throws at one site `"flips"` $(n,)$, in a plate, observed if they are given.


# %% tags=["exercise"]
def my_model(n, flips=None):
    return ...


checks.check_coin_model(my_model)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `dist.Beta(a, b)` is the prior. There is one coin: draw it outside the plate. The throws are in a
# plate of size `n`, which widens one distribution to `n` of them.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# The last line begins with `pyro.sample("flips", …`.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_model(n, flips=None):
    theta = pyro.sample("theta", dist.Beta(2.0, 2.0))
    with pyro.plate("throws", n):
        return pyro.sample("flips", dist.Bernoulli(theta), obs=flips)


assert checks.check_coin_model(course_model)

# %%
model = my_model if checks.check_coin_model(my_model) else course_model
flips = torch.as_tensor(throws).float()  # (n,) distributions want decimal numbers
at_half = poutine.condition(model, data={"theta": torch.tensor(0.5)})
log_joint = poutine.trace(at_half).get_trace(n, flips).log_prob_sum().item()
print(f"log p(throws, theta = 1/2): Pyro {log_joint:.4f}, on paper {math.log(1.5) + fair:.4f} nats")
assert math.isclose(log_joint, math.log(1.5) + fair, abs_tol=1e-3)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 A guide, and how it is trained
# For most models nobody knows the posterior. *Variational* Bayes takes a family of densities
# $q_\phi(\theta)$, with parameters $\phi$, and looks for the member nearest to it. Pyro calls
# $q_\phi$ the **guide**. Nearest means the smallest Kullback–Leibler divergence
# $\text{KL}(q \,\|\, p(\theta \mid y)) = E_q[\log q(\theta) - \log p(\theta \mid y)]$, which
# contains the unknown posterior. But because $p(y, \theta) = p(y)\,p(\theta \mid y)$,
#
# $$ \underbrace{\log p(y)}_{\text{log evidence}} = \underbrace{E_q\big[\log p(y, \theta) - \log
# q(\theta)\big]}_{\text{ELBO}} + \underbrace{\text{KL}\big(q \,\|\, p(\theta \mid
# y)\big)}_{\text{gap, never negative}} . $$
#
# The left side does not depend on $q$. So to raise the first part is to shrink the second, the
# **gap**. The first part needs draws from the guide and the score of the model, and no posterior.
# It is the **ELBO**, the *evidence lower bound*, in nats.
#
# The earlier lectures, and this course, call the ELBO **free energy** and maximise it. In physics,
# and often elsewhere, free energy is *minus* the ELBO and is minimised: look before you compare.
# Pyro's `loss` is minus the ELBO, too.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 4: the guide (3 minutes)
# A guide takes the model's arguments and draws every unknown site under its name. It observes
# nothing. Its numbers come from `pyro.param("name", torch.tensor(1.0))`, which hands them to the
# optimiser. A number that must be positive needs `constraint=constraints.positive`, too.
#
# Write `my_guide(n, flips=None)`: $\theta$ has a Beta density; both its parameters are trained, and
# begin at 2.


# %% tags=["exercise"]
def my_guide(n, flips=None):
    return ...


checks.check_guide(my_guide)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint</summary>
#
# Three lines: two parameters with different names, and one `pyro.sample` without `obs`.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_guide(n, flips=None):
    a = pyro.param("a", torch.tensor(2.0), constraint=constraints.positive)
    b = pyro.param("b", torch.tensor(2.0), constraint=constraints.positive)
    return pyro.sample("theta", dist.Beta(a, b))


assert checks.check_guide(course_guide)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **SVI**, stochastic variational inference, is exercise 2 with dice. The expectation in the ELBO is
# estimated by draws from the guide, and the gradient flows through them into the parameters.
# `svi.step` does it all: draw, `backward`, move, forget. Here it takes 100 draws at once, along a
# new axis on the left of the plate (of at most one plate: `max_plate_nesting=1`). `ClippedAdam`
# adapts the size of the steps, and `lrd` shrinks each by 0.8 %: the dice count less and less.


# %%
def density_of(guide, *data):
    """The distribution from which a guide draws theta."""
    return poutine.trace(guide).get_trace(*data).nodes["theta"]["fn"]


def curve(q):
    """Values of a density on the grid, (s,)."""
    return q.log_prob(grid.float()).exp().double().detach()


def fit(model, guide, *data, film=()):
    """Train; returns the ELBO of every step, and the density after some steps."""
    pyro.clear_param_store()
    pyro.set_rng_seed(SEED)
    loss = Trace_ELBO(num_particles=100, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, ClippedAdam({"lr": 0.1, "lrd": 0.992}), loss)
    elbo, curves = [], {}
    for step in (shown := bar(range(STEPS + 1), desc="SVI")):
        if step in film:
            curves[step] = curve(density_of(guide, *data))
        elbo.append(-svi.step(*data))  # nats
        shown.set_postfix(ELBO=f"{elbo[-1]:.2f}", refresh=False)
    return elbo, curves


# %% [markdown]
# To judge a guide we take the grid for the gap, and many draws for the ELBO.


# %%
def gap(q):
    """KL(q || exact posterior) of a density on the grid, nats."""
    return (torch.xlogy(q, q) - torch.xlogy(q, truth)).sum().item() * WIDTH


def precise_elbo(model, guide, *data):
    """ELBO from 50,000 draws, nats."""
    loss = Trace_ELBO(num_particles=50_000, vectorize_particles=True, max_plate_nesting=1)
    return -loss.loss(model, guide, *data)


# %%
FILM = (0, 3, 6, 10, 20, 40, 80)  # steps
guide = my_guide if checks.check_guide(my_guide) else course_guide
elbo, curves = fit(model, guide, n, flips, film=(*FILM, STEPS))
bound, q = precise_elbo(model, guide, n, flips), density_of(guide, n, flips)

# %% tags=["picture-first"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Left: densities of the probability of heads. A dashed hill in the middle is the prior, a filled hill near 0.8 the exact posterior; eight curves, from light to dark blue, lead from the one to the other. Right: the ELBO climbs within some 60 steps to a dashed line, the log evidence, and stays there."
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[3, 2])
left.fill_between(grid, truth, color=PALETTE["yellow"], alpha=0.45, lw=0, label="exact posterior")
for (step, at), shade in zip(curves.items(), np.linspace(0.3, 1, len(curves)), strict=True):
    ends = f"guide, step {step}" if step in (10, STEPS) else None
    left.plot(grid, at, color=plt.cm.GnBu(shade), label=ends)
left.plot(grid, 6 * grid * (1 - grid), "--", color=PALETTE["black"], label="prior")
left.set(xlabel=r"$\theta$, the probability of heads", ylabel="density", xlim=(0, 1), ylim=0)
left.legend(loc="upper left")
right.plot(elbo, color=plt.cm.GnBu(0.8), label="ELBO")
right.axhline(log_evidence, color=PALETTE["black"], ls="--", label="log evidence")
right.set(xlabel="step of SVI", ylabel="nats", xlim=(-3, 150))
right.set_ylim(log_evidence - 2.2, log_evidence + 0.3)
_ = right.legend(loc="lower right")

# %% [markdown]
# The guide starts at the prior (both are Beta(2, 2)), runs too far to the right, and comes back to
# end on the posterior: its family contains it. The jitter of the ELBO comes from the dice. (Single
# estimates may lie above the line; their mean may not.) It dies out, because at the exact posterior
# every draw gives the same $\log p(y, \theta) - \log q(\theta)$, which is the log evidence. Now the
# equation above, in numbers:

# %%
kl = gap(curve(q))
print(f"ELBO {bound:.4f} + gap {kl:.4f} = {bound + kl:.4f}; log evidence {log_evidence:.4f} nats")
assert math.isclose(bound + kl, log_evidence, abs_tol=0.01)
assert -1e-6 < kl < 0.005, EXPECTED

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 The next ten throws
# A Bayesian forecasts *data*. `Predictive(model, posterior_samples={"name": draws})` makes a
# function that takes the model's arguments and runs the model once for each draw. It returns a
# dictionary of the other sites, draws along the first axis. With `parallel=True` all run at once,
# if the plates are right.
#
# ### Exercise 5: forecast (3 minutes)
# Write `my_forecast(model, theta, m)`: for each of the draws `theta` $(s,)$ the number of heads in
# `m` new throws, $(s,)$.


# %% tags=["exercise"]
def my_forecast(model, theta, m):
    return ...


checks.check_forecast(my_forecast)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint</summary>
#
# The model's first argument is now `m`, and it gets no throws. Its site `"flips"` has the shape
# $(s, m)$.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_forecast(model, theta, m):
    sampler = Predictive(model, posterior_samples={"theta": theta}, parallel=True)
    flips = sampler(m)["flips"]  # (s, m)
    return flips.sum(-1)


assert checks.check_forecast(course_forecast)

# %% [markdown]
# **Predict first:** draw $\theta$ from the posterior, throw ten times, count heads; again and
# again. Somebody else takes the posterior mean for $\theta$ each time. Whose counts spread more?

# %%
predict("ten more", "ours", "the other's", "both alike: the mean is the same")

# %%
forecast = my_forecast if checks.check_forecast(my_forecast) else course_forecast
seed_everything(SEED)
theta = q.sample((4000,))  # (s,) from the trained guide
heads = torch.as_tensor(forecast(model, theta, 10)).long()
share = torch.bincount(heads, minlength=11) / len(heads)
ours, other = stats.betabinom(10, 2 + HEADS, 2 + TAILS), stats.binom(10, exact.mean())
assert np.allclose(share, ours.pmf(range(11)), atol=0.04)  # exact: the beta-binomial

# %% jupyter={"source_hidden": true} alt="Bars: forecast shares of 0 to 10 heads in ten new throws. Dots, the exact beta-binomial distribution, lie on their tops. A line, the binomial distribution at the posterior mean, is narrower and higher."
fig, ax = plt.subplots(figsize=(8, 3.2))
ax.bar(range(11), share, color=PALETTE["sky"], label="forecast")
ax.plot(ours.pmf(range(11)), "o", color=PALETTE["black"], label="exact (beta-binomial)")
ax.plot(other.pmf(range(11)), "s--", color=PALETTE["orange"], label="at the posterior mean")
ax.set(xlabel="heads in the next ten throws", ylabel="probability", xticks=range(11))
_ = ax.legend()

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
assert ours.std() > other.std()
answer(
    "ten more",
    "ours",
    f"The standard deviations are {ours.std():.2f} and {other.std():.2f} heads. "
    r"Not to know $\theta$ adds to chance; the other is sure of it.",
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 A Gaussian in its place
# The usual guide is a Gaussian; for a $\theta$ in $(0, 1)$, a Gaussian on the logit of $\theta$.
# Pyro writes such guides itself: `AutoNormal(model)`.
#
# **Predict first:** the gap of this guide, after enough steps, is …

# %%
predict("gaussian gap", "zero, as before", "small, and never zero", "larger than one nat")

# %%
auto = AutoNormal(model)
fit(model, auto, n, flips)
auto_elbo = precise_elbo(model, auto, n, flips)
print(f"ELBO {auto_elbo:.3f} nats, log evidence {log_evidence:.3f} nats")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
assert 0.004 < log_evidence - auto_elbo < 0.03, EXPECTED
answer(
    "gaussian gap",
    "small, and never zero",
    f"It is {log_evidence - auto_elbo:.3f} nats: the logit of a Beta variable is no Gaussian, and "
    "no training makes it one.",
)

# %% [markdown]
# What did Pyro write? A normal variable, pushed through the sigmoid. `TransformedDistribution`
# knows the density of such a variable, Jacobian included.

# %%
normal = dist.Normal(auto.locs.theta, auto.scales.theta)
gaussian = curve(dist.TransformedDistribution(normal, dist.transforms.SigmoidTransform()))  # (s,)
tail = gaussian[grid < 0.5].sum().item() * WIDTH
print(f"ELBO {auto_elbo:.4f} + gap {gap(gaussian):.4f}; log evidence {log_evidence:.4f} nats")
print(f"P(theta < 1/2): this guide {tail:.4f}, exact {exact.cdf(0.5):.4f}")
assert math.isclose(auto_elbo + gap(gaussian), log_evidence, abs_tol=0.01)
assert tail > 1.25 * exact.cdf(0.5), EXPECTED

# %% [markdown]
# A gap of a hundredth of a nat is small, and still this guide's answer to the first question of the
# notebook is half as large again as the exact one. KL hardly looks at the tails: before you trust
# an approximation there, check it there.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 NUTS, and a mint
# **MCMC** needs no guide and has no gap. It draws from the posterior itself; its error is that of a
# finite number of draws that depend on each other. NUTS is the form of it that uses gradients, and
# takes the model as it is. `n_eff` says how many independent draws ours are worth. (For one unknown
# one chain will do. Elsewhere run several, and compare them.)

# %%
pyro.set_rng_seed(SEED)
mcmc = MCMC(NUTS(model), num_samples=DRAWS, warmup_steps=200, disable_progbar=True)
mcmc.run(n, flips)
draws, n_eff = mcmc.get_samples()["theta"], mcmc.diagnostics()["theta"]["n_eff"].item()
error = draws.std().item() / math.sqrt(n_eff)
print(f"mean {draws.mean():.3f} ± {error:.3f}, exact {exact.mean():.3f}; n_eff {n_eff:.0f}")
assert draws.shape == (DRAWS,) and abs(draws.mean().item() - exact.mean()) < 5 * error

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 6: coins of one mint (3 minutes)
# A mint bends its coins all in a similar way. Its model, for $k$ coins with $n_j$ throws each:
#
# $$ c \sim \text{Beta}(2, 2), \qquad \theta_j \mid c \sim \text{Beta}\big(10\,c,\ 10\,(1-c)\big),
# \qquad h_j \mid \theta_j \sim \text{Binomial}(n_j, \theta_j). $$
#
# Write `my_mint(throws, heads=None)` with the sites `"centre"`, `"theta"` and `"heads"`; `throws`
# holds the $n_j$, $(k,)$.


# %% tags=["exercise"]
def my_mint(throws, heads=None):
    return ...


checks.check_mint(my_mint)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint</summary>
#
# What is drawn once stands outside the plate, what is drawn for each coin inside. The size of the
# plate is `len(throws)`. `dist.Binomial` takes the numbers of throws first.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_mint(throws, heads=None):
    centre = pyro.sample("centre", dist.Beta(2.0, 2.0))
    with pyro.plate("coins", len(throws)):
        theta = pyro.sample("theta", dist.Beta(10 * centre, 10 * (1 - centre)))
        return pyro.sample("heads", dist.Binomial(throws, theta), obs=heads)


assert checks.check_mint(course_mint)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 7: the guide of the mint (5 minutes)
# Write `my_mint_guide(throws, heads=None)`: a Beta density for the centre, and one for each coin,
# all independent of each other (*mean field*). All parameters begin at 2; each coin has its own.


# %% tags=["exercise"]
def my_mint_guide(throws, heads=None):
    return ...


checks.check_mint_guide(my_mint_guide)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint</summary>
#
# Four parameters: two single numbers, and two of shape $(k,)$, which `torch.full((k,), 2.0)` makes.
# The coins are in a plate, as in the model.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_mint_guide(throws, heads=None):
    k = len(throws)
    a = pyro.param("a", torch.tensor(2.0), constraint=constraints.positive)
    b = pyro.param("b", torch.tensor(2.0), constraint=constraints.positive)
    a_coins = pyro.param("a of coins", torch.full((k,), 2.0), constraint=constraints.positive)
    b_coins = pyro.param("b of coins", torch.full((k,), 2.0), constraint=constraints.positive)
    pyro.sample("centre", dist.Beta(a, b))
    with pyro.plate("coins", k):
        pyro.sample("theta", dist.Beta(a_coins, b_coins))


assert checks.check_mint_guide(course_mint_guide)

# %% [markdown]
# Model and guide have changed; `fit` has not. And the exact answer beside it: given $c$, all
# $\theta_j$ can be integrated out on paper, and $c$ alone needs a grid.

# %%
mint = my_mint if checks.check_mint(my_mint) else course_mint
passed = checks.check_mint_guide(my_mint_guide)
mint_guide = my_mint_guide if passed else course_mint_guide
mint_throws = torch.tensor([4.0, 4.0, 8.0, 10.0, 20.0, 40.0])  # (k,)
mint_heads = torch.tensor([4.0, 1.0, 7.0, 9.0, 9.0, 30.0])  # (k,)
fit(mint, mint_guide, mint_throws, mint_heads)
mint_elbo = precise_elbo(mint, mint_guide, mint_throws, mint_heads)
theta = density_of(mint_guide, mint_throws).sample((4000,))  # (s, k)

# %%
c = grid[:, None].numpy()  # (s, 1)
scores = stats.betabinom.logpmf(mint_heads, mint_throws, 10 * c, 10 - 10 * c)  # (s, k)
log_joint = scores.sum(1) + stats.beta(2, 2).logpdf(c[:, 0])  # (s,)
weight = torch.as_tensor(log_joint).softmax(0)  # p(c | heads)
mint_mean = weight @ ((10 * grid[:, None] + mint_heads) / (10 + mint_throws))  # (k,)
mint_evidence = torch.as_tensor(log_joint).logsumexp(0).item() + math.log(WIDTH)  # nats
worst = (theta.mean(0) - mint_mean).abs().max()
print(f"ELBO {mint_elbo:.2f}, log evidence {mint_evidence:.2f} nats; worst mean off by {worst:.3f}")
assert worst < 0.04 and 0.05 < mint_evidence - mint_elbo < 1, EXPECTED

# %% jupyter={"source_hidden": true} alt="Probability of heads of six coins with 4 to 40 throws each: an orange cross is the share of heads, a blue dot with a bar the mean and standard deviation of the guide, a black ring the exact mean. The rings lie around the dots. Coins with few throws are drawn from their share towards the other coins, the coin with 40 throws hardly."
fig, ax = plt.subplots(figsize=(8, 3.2))
k = range(len(mint_throws))
mean, spread = theta.mean(0), theta.std(0)
ax.errorbar(k, mean, spread, fmt="o", color=PALETTE["blue"], label="guide: mean ± sd")
ax.plot(k, mint_mean, "o", ms=12, mfc="none", color=PALETTE["black"], label="exact mean")
ax.plot(k, mint_heads / mint_throws, "x", ms=10, color=PALETTE["orange"], label="share of heads")
ax.set_xticks(k, [f"{h:.0f} of {t:.0f}" for h, t in zip(mint_heads, mint_throws, strict=True)])
ax.set(xlabel="heads of throws", ylabel=r"$\theta_j$, probability of heads", ylim=(0, 1.05))
ax.set_xlim(-0.5, 5.5)
_ = ax.legend(loc="lower right")

# %% [markdown]
# The coin with four heads of four is not believed to show heads always: its mint speaks against it.
# The fewer throws a coin has, the more it takes from the others. The gap comes from *mean field*:
# a guide of independent parts cannot say that all $\theta_j$ move with $c$.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 What you saw

# %% jupyter={"source_hidden": true}
curves_of = {"exact": truth, "Beta guide": curves[STEPS], "Gaussian guide": gaussian}
lines = ["| posterior | mean | P(θ < ½) | gap (nats) |", "| --- | --- | --- | --- |"]
for name, p in curves_of.items():
    at = (grid * p).sum() * WIDTH, p[grid < 0.5].sum() * WIDTH
    lines.append(f"| {name} | {at[0]:.3f} | {at[1]:.4f} | {gap(p):.4f} |")
tail = (draws < 0.5).float().mean().item()
noise = math.sqrt(exact.cdf(0.5) * exact.sf(0.5) / n_eff)
lines.append(f"| NUTS | {draws.mean():.3f} ± {error:.3f} | {tail:.3f} ± {noise:.3f} | none |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# - A **model** draws and scores. A **guide** draws what is unknown. **SVI** raises the ELBO; what
#   it lacks to the log evidence is the gap, which can be seen only where the evidence is known.
# - The family of the guide sets the smallest gap, and training adds to it.
# - Gradients add up; `log_prob` sums event axes only; plates say what is independent.
#
# **In practice.** Trace a model on tiny data and compare its joint density with paper before you
# train it. Print shapes: `poutine.trace(model).get_trace(…).format_shapes()`. Leave Pyro's
# validation on. Try an AutoGuide first, and NUTS where it is affordable.
#
# **Further reading.** PyTorch:
# [tensors](https://docs.pytorch.org/tutorials/beginner/basics/tensorqs_tutorial.html),
# [autograd](https://docs.pytorch.org/tutorials/beginner/basics/autogradqs_tutorial.html). Pyro:
# [introduction](https://pyro.ai/examples/intro_long.html),
# [shapes](https://pyro.ai/examples/tensor_shapes.html), [SVI](https://pyro.ai/examples/svi_part_i.html).
# The evidence lower bound as a (maximised) free energy: Neal and Hinton (1998), *A view of the EM
# algorithm that justifies incremental, sparse, and other variants*.

# %% tags=["progress"]
progress.show("first_steps")
