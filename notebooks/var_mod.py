# %% [markdown] slideshow={"slide_type": "slide"}
# # {{title}}
# *Bayesian Statistical Learning, Lecture 4: Deep learning architectures*
#
# {{picture}}
#
# **No hand wrote these digits. How does a program learn to draw from images alone?** A network drew
# each of them from two numbers. It never saw a label. You will build it, and find out how good it
# is.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you will do.** Fit a generative model to handwritten digits without looking at one label.
# You write its networks, the model, its approximate posterior and the training, which raises a
# lower bound of the log likelihood: the free energy, the one idea of this course.
#
# **What you will learn.**
# - Why the marginal likelihood of a latent variable model is out of reach, and how a bound helps.
# - What the two parts of the bound, *distortion* and *rate*, measure.
# - How to write the model in Pyro, and how to change it.
# - How to judge a generative model: on test data, and with eyes open for collapse.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you need.** Python, probability (Gaussian, Bernoulli, Kullback–Leibler divergence), and the
# earlier lectures (1–3) on variational Bayes. PyTorch and Pyro are new to you? The notebook
# `first_steps` introduces both on a coin in 40 minutes. No GPU is needed. The notebook runs
# unchanged on one, where it was not timed.
#
# {{ways}}; each says how long.
#
# {{timetable}}
#
# **Data.** MNIST, 28 × 28 pixels, Yann LeCun, Corinna Cortes and Christopher Burges, CC BY-SA 3.0.
# The course bundles 16,000 training, 2,000 validation and 2,000 test digits.

# %%
import course_utils  # noqa: F401 - before torch: it decides how threads wait

# %% slideshow={"slide_type": "subslide"}
import copy
import itertools
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.utils.data import DataLoader

from course_utils import progress
from course_utils.checks import vae as checks
from course_utils.data import load_mnist
from course_utils.explore import explore
from course_utils.metrics import mean_and_error
from course_utils.plotting import PALETTE, plot_images, use_course_style
from course_utils.predictions import answer, predict
from course_utils.runtime import bar, get_device, seed_everything, set_threads
from course_utils.validation import is_number, is_whole, require

# %% tags=["parameters"]
SEED = 0
DEVICE = "auto"  # "cpu" or "cuda" to choose
THREADS = None  # all cores, at most four: these networks are wide enough
EPOCHS = 7  # of the autoencoder and of the two-dimensional VAE
HIDDEN = 200  # width of their networks
LATENT = 32  # latent dimension of the large VAE
STEPS = 1700  # steps of the large VAE, 80 make an epoch
BUG_STEPS = 300  # steps of each of the two small VAEs of section 8
LINEAR_STEPS = 800  # steps of the linear VAE
DIAL = (0.2, 1.0, 4.0)  # values of beta, increasing, with 1
DIAL_SEEDS = 5  # networks for each beta
DIAL_STEPS = 200  # steps of each of them
DIAL_DIGITS = 4000  # training digits for each beta
LABELS = 100  # labelled digits in section 18, as many of each kind
LABEL_SEEDS = 5  # choices of the labelled digits
ALARM_DIGITS = 4000  # training digits of each network in section 19

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# What some checkpoints say if other parameters break them; impossible values are refused here.
EXPECTED = "expected with the parameters as they stand in the notebook"
numbers = {"EPOCHS": EPOCHS, "HIDDEN": HIDDEN, "LATENT": LATENT, "BUG_STEPS": BUG_STEPS}
for name, value in numbers.items():
    require(is_whole(value, 1), name, "a whole number of at least 1", value)
for name, value in {"STEPS": STEPS, "DIAL_STEPS": DIAL_STEPS}.items():
    require(is_whole(value, 10), name, "a whole number of at least 10", value)
for name, value in {"DIAL_DIGITS": DIAL_DIGITS, "ALARM_DIGITS": ALARM_DIGITS}.items():
    require(is_whole(value, 100, 14_000), name, "a whole number from 100 to 14,000", value)
require(is_whole(DIAL_SEEDS, 2), "DIAL_SEEDS", "a whole number of at least 2", DIAL_SEEDS)
require(is_whole(LINEAR_STEPS, 50), "LINEAR_STEPS", "a whole number of at least 50", LINEAR_STEPS)
tens = is_whole(LABELS, 10, 10_000) and LABELS % 10 == 0
require(tens, "LABELS", "a multiple of ten, at most 10,000", LABELS)
require(is_whole(LABEL_SEEDS, 2), "LABEL_SEEDS", "a whole number of at least 2", LABEL_SEEDS)
climbs = isinstance(DIAL, tuple) and len(DIAL) > 1 and all(is_number(beta, 1e-6) for beta in DIAL)
climbs = climbs and 1 in DIAL and all(a < b for a, b in itertools.pairwise(DIAL))
require(climbs, "DIAL", "at least two increasing positive numbers, one of them 1", DIAL)

# %% slideshow={"slide_type": "subslide"}
seed_everything(SEED)
device = get_device(DEVICE)
_ = set_threads(THREADS)
use_course_style()
plt.rcParams.update({"axes.titlesize": 11})

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# Ten colours that the colour-blind can tell apart, after Paul Tol; the digits say it, too.
TEN = "#332288 #3388BB #117733 #999933 #AA4499 #EE7733 #882255 #CC3311 #2A8C7B #666666".split()


def plot_codes(z, labels, ax):
    """Draw the first 700 two-dimensional codes, each as the digit that it belongs to."""
    z, labels = z[:700].cpu(), labels[:700]
    for digit in range(10):
        ax.scatter(*z[labels == digit].T, s=26, c=TEN[digit], marker=f"${digit}$", linewidths=0.2)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")


# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 Digits without labels
# *Supervised* learning predicts $y$ from $x$. *Unsupervised* learning has only $x$, here images,
# and asks how they are distributed. No label is used for learning before section 18. Until then
# labels only choose and describe what is shown.

# %%
digits = load_mnist()
grey_sets = digits.x_train, digits.x_val, digits.x_test  # (n, 784) in [0, 1]
grey_train, grey_val, grey_test = (x.to(device) for x in grey_sets)
n, d = grey_train.shape
assert (n, d) == (16000, 784) and len(grey_val) == len(grey_test) == 2000

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Black and white
# A likelihood must fit its data. The usual one for pixels, the Bernoulli distribution, knows 0 and
# 1 only. The digits are grey. Pyro refuses them, as long as nobody switches its validation off:

# %% tags=["nbval-check-output", "mistake-V1"]
try:
    dist.Bernoulli(probs=torch.tensor(0.4)).log_prob(torch.tensor(0.3))
    raise AssertionError("validation is switched off")
except ValueError as error:
    print(str(error).splitlines()[0])

# %% [markdown]
# So digits become black and white. Three customs make three *different data sets*, whose scores
# must never be compared:
#
# - **thresholded**: a pixel is 1 if its grey value is above ½;
# - **sampled**: a pixel is 1 with probability equal to its grey value, and training digits are
#   sampled afresh whenever they are used;
# - **sampled once**, training digits included (Larochelle and Murray 2011).
#
# We take the second. Validation and test digits are sampled once and stay fixed.


# %% tags=["mistake-V1", "mistake-V9"]
def binarise(grey):
    """Sample black (1) with probability equal to the grey value; same shape, device and dtype."""
    return (torch.rand_like(grey) < grey).to(grey)


x_val, x_test = binarise(grey_val), binarise(grey_test)
assert set(x_test.unique().tolist()) == {0.0, 1.0}

# %% alt="Fourteen handwritten test digits in three rows: grey, thresholded with smooth edges, and sampled with ragged edges." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(3, 1, figsize=(7, 2.8))
versions = {"grey": grey_test, "thresholded": (grey_test > 0.5).float(), "sampled": x_test}
for ax, (name, images) in zip(axes, versions.items(), strict=True):
    plot_images(images[:14], rows=1, ax=ax).set_title(name, loc="left")

# %% [markdown]
# Sampling roughens the edges of a stroke. That is pure noise, which no model can foresee. Log
# probabilities are counted in **nats**: one nat is a factor of $e$ in probability. With $H$ the
# entropy, the noise costs $\sum_j H(\text{Bernoulli}(x_j^{\text{grey}}))$ nats per image: a *floor*
# under the mean negative log likelihood of every model. At the other end stands a model that knows
# only how often each pixel is black.

# %% tags=["nbval-check-output"]
floor = dist.Bernoulli(grey_test).entropy().sum(-1).mean().item()
frequency = grey_train.mean(0).clamp(1e-4, 1 - 1e-4)  # (d,)
constant = dist.Bernoulli(frequency).log_prob(x_test).sum(-1).mean().item()
print(f"noise of sampling alone: {floor:.1f} nats per image; pixel frequencies: {-constant:.1f}")
assert 20 < floor < 60 and 200 < -constant < 215

# %% [markdown]
# Every good score for digits *sampled like this* lies between these two numbers. Twenty nats would
# be a mistake, or another binarisation.
#
# ### Networks
# `mlp` stacks dense layers. Networks that draw return *logits*, log-odds $\log\frac{p}{1-p}$ of
# each pixel, and `log_bernoulli` takes them as they are. (A sigmoid at the end of the network would
# be applied twice.)


# %%
def mlp(*sizes):
    """Dense layers of the given sizes with GELU between them."""
    layers = []
    for size_in, size_out in itertools.pairwise(sizes):
        layers += [nn.Linear(size_in, size_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def log_bernoulli(x, logits):
    """log p(x | logits) in nats, one number per image: (n, d), (..., n, d) -> (..., n)."""
    x = x.expand_as(logits)
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 An autoencoder
# **Question:** can a network find a short description of a digit on its own?
#
# An *autoencoder* has two halves. The **encoder** maps the image to a code $z$ of $k$ numbers. The
# **decoder** maps the code back to an image. The loss asks for a good reconstruction; nobody says
# what the code should mean. With $k = 2$ we can look at it.
#
# A *batch* is a few rows; one pass through all rows, in random order, is an *epoch*. `DataLoader`
# deals the batches. A step downhill is three lines: forget the old gradient, compute the new one by
# backpropagation, move the weights.

# %%
encoder, decoder = mlp(d, HIDDEN, HIDDEN, 2).to(device), mlp(2, HIDDEN, HIDDEN, d).to(device)
with torch.no_grad():
    decoder[-1].bias.copy_(frequency.logit())  # a start at the pixel frequencies
optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
loader = DataLoader(grey_train, batch_size=100, shuffle=True)
for _ in (shown := bar(range(EPOCHS), desc="epochs")):
    for grey in loader:
        x = binarise(grey)
        loss = -log_bernoulli(x, decoder(encoder(x))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    shown.set_postfix(loss=f"{loss.item():.1f}", refresh=False)

# %%
with torch.no_grad():
    ae_codes, train_codes = encoder(x_test), encoder(binarise(grey_train))  # both (…, 2)
    ae_distortion, ae_error = mean_and_error(-log_bernoulli(x_test, decoder(ae_codes)))
print(f"autoencoder, reconstruction: {ae_distortion:.1f} ± {ae_error:.1f} nats per test image")
assert ae_codes.shape == (2000, 2)
assert 125 < ae_distortion < 160, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# After ± stands the standard error, here over digits. That is far better than the pixel frequencies.
# But it is **no** likelihood: the code has seen the image.
#
# Can it *draw*? Nothing in the loss says how codes are distributed. But we can fit a density to
# the codes of the training digits, draw from that, and decode. We fit a Gaussian and a mixture of
# ten. **Predict first:**

# %%
predict("drawing", "it draws smears only", "it draws some digits", "every draw is a digit")

# %% slideshow={"slide_type": "subslide"}
decoded = {}
for name, components in {"Gaussian": 1, "mixture": 10}.items():
    density = GaussianMixture(components, random_state=SEED).fit(train_codes.cpu().double())
    z = torch.tensor(density.sample(14)[0]).to(x_test)  # (14, 2), sorted by component
    with torch.no_grad():
        decoded[f"autoencoder + {name}"] = decoder(z).sigmoid()

# %% alt="Left: codes of test digits in the plane, each drawn as its digit; ones, sevens and zeros form arms of their own, fours and nines lie upon each other. Right: two rows of seven times two decoded draws, most of them digits, some smears." jupyter={"source_hidden": true}
fig = plt.figure(figsize=(9, 4))
grid = fig.add_gridspec(2, 2, width_ratios=(1, 1.1))
plot_codes(ae_codes, digits.y_test, fig.add_subplot(grid[:, 0], title="codes of test digits"))
for row, (name, images) in enumerate(decoded.items()):
    plot_images(images, rows=2, ax=fig.add_subplot(grid[row, 1])).set_title(f"{name} (means)")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("drawing", "it draws some digits", "Others are smears or blends of two kinds.")

# %% [markdown]
# Left: some kinds have a region of their own, others overlap, although no label was shown. Right:
# pixel means of decoded draws. So an autoencoder draws, once a density is fitted to its codes. What
# it lacks:
#
# - a *specified* distribution of codes: the density came afterwards, the decoder never saw its
#   draws;
# - a *price* of the code. Its decimals never end, and so under any density $p(z)$ the price of an
#   exact code, its *rate*, is infinite;
# - hence a *score* for a new image: the reconstruction error alone falls to zero when the code is
#   the image.
#
# So let us give $z$ a distribution from the start.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 A model with a latent variable
# Tell the story of a digit backwards. First nature draws a *latent* $z$, a few numbers that nobody
# sees, from a **prior**. Then it draws the image from a **likelihood**, whose parameters a network
# computes from $z$, the **decoder**:
#
# $$ z \sim p(z) = N(0, I), \qquad x \mid z \sim p_\theta(x \mid z) = \prod_j
# \text{Bernoulli}\big(x_j;\ \text{sigmoid}(\text{decoder}_\theta(z)_j)\big). $$
#
# Here $\theta$ are the weights of the decoder. To fit them by maximum likelihood we need the
# **marginal likelihood** of each image,
#
# $$ p_\theta(x) = \int p_\theta(x \mid z)\, p(z)\, dz . $$
#
# There is no closed form. Why not average $p_\theta(x \mid z_s)$ over draws $z_s \sim p(z)$? Almost
# every draw says "this image is impossible". Section 9 counts the draws that it takes, on a model
# with a known answer. We need draws from where the integrand lives: from the **posterior**
# $p_\theta(z \mid x)$, which we do not have.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 The variational bound
# The earlier lectures had the same trouble with the same cure: approximate the posterior by a
# distribution $q$ that we can draw from, which Pyro calls the **guide**. For one image $x$,
#
# $$ \log p_\theta(x) = \underbrace{E_{q}\big[\log p_\theta(x \mid z)\big] -
# \text{KL}\big(q(z)\,\|\,p(z)\big)}_{\text{ELBO}}
# \; + \; \text{KL}\big(q(z)\,\|\,p_\theta(z \mid x)\big). $$
#
# *Derivation.* Write $\log p(x) = \log p(x, z) - \log p(z \mid x)$, add and subtract $\log q(z)$,
# and take the expectation over $q$: the left side does not depend on $z$. Then split $\log p(x, z)
# = \log p(x \mid z) + \log p(z)$; the second part joins $\log q(z)$. $\square$
#
# **In words:** how well do codes drawn from $q$ explain the image, minus how far $q$ has moved from
# the prior. That is the *evidence lower bound*, ELBO, the *free energy* of lectures 1–3 (elsewhere
# often with the other sign). The last term is never negative, so it is a **lower bound** of the log
# likelihood. Raising it over $q$ narrows the gap. Raising it over $\theta$ raises a lower bound;
# $\theta$ may instead bend towards posteriors that $q$ can match. Its parts:
#
# - **distortion** $= -E_q[\log p_\theta(x \mid z)]$: nats to describe the image given its code;
# - **rate** $= \text{KL}(q(z) \| p(z))$: nats to transmit the code, with a scheme called *bits-back
#   coding*;
# - ELBO $= -(\text{distortion} + \text{rate})$.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Amortisation.** Instead of fitting 16,000 posteriors, a VAE trains one network, the **encoder**
# with weights $\phi$, that *computes* $q$ from $x$:
#
# $$ q_\phi(z \mid x) = N\big(z_\mu(x),\ \text{diag}(z_\sigma(x)^2)\big). $$
#
# A new image costs one forward pass. The price is an *amortisation gap*, measured in section 12.
#
# **A draw that lets the gradient pass.** The distortion is a mean over draws of $q_\phi$, and
# training needs its gradient by $\phi$. So a draw is written as shift and scale of noise without
# parameters, $z = z_\mu + z_\sigma\, \varepsilon$ with $\varepsilon \sim N(0, I)$: the
# *reparametrisation trick* (section 11 has the alternative). The rate needs no draws, because two
# Gaussians have a divergence in closed form.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 1: derive and code the rate (10 minutes)
# Start from $\text{KL}(q\|p) = E_q[\log q(z) - \log p(z)]$ with $q = N(\mu, \text{diag}(\sigma^2))$
# and $p = N(0, I)$, with pencil and paper. Then code it: `mu` and `sigma` (a standard deviation)
# have shape `(n, k)`, the answer has shape `(n,)`, in nats.


# %% tags=["exercise"]
def my_gaussian_kl(mu, sigma):
    return ...  # replace this by your code


checks.check_gaussian_kl(my_gaussian_kl)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Both densities factorise over dimensions, so one dimension is enough. What is $E_q[(z-\mu)^2]$,
# and what is $E_q[z^2]$?
#
# </details>
# <details><summary>Hint 2</summary>
#
# $E_q[\log q] = -\frac12\log(2\pi\sigma^2) - \frac12$. What is $E_q[\log p]$?
#
# </details>
# <details><summary>Hint 3</summary>
#
# Test it by hand: with $\mu = 0$ and $\sigma = 1$ the rate is 0. The sum over latents runs over the
# last axis.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def gaussian_kl(mu, sigma):
    """KL(N(mu, diag sigma^2) || N(0, I)) in nats: (n, k), (n, k) -> (n,)."""
    return 0.5 * (mu.square() + sigma.square() - 1 - 2 * sigma.log()).sum(-1)


course_gaussian_kl = gaussian_kl
assert checks.check_gaussian_kl(gaussian_kl)

# %% [markdown]
# The notebook goes on with *your* rate once it has passed. Every closed form deserves a safeguard:
# the definition as a mean of $\log q(z_s) - \log p(z_s)$ over draws $z_s \sim q$.

# %% tags=["mistake-V7"]
passed = checks.check_gaussian_kl(my_gaussian_kl)
gaussian_kl = my_gaussian_kl if passed else course_gaussian_kl
mu, sigma = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.3, 1.5]])
q, prior = dist.Normal(mu, sigma), dist.Normal(0.0, 1.0)
z = q.sample((100_000,))  # (s, 1, 2)
estimate, error = mean_and_error((q.log_prob(z) - prior.log_prob(z)).sum(-1))
closed = gaussian_kl(mu, sigma)
print(f"closed form {closed.item():.4f}, Monte Carlo {estimate.item():.4f} ± {error.item():.4f}")
assert (closed - estimate).abs() < 5 * error

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 The VAE in Pyro
# Networks first.
#
# ### Exercise 2: the networks (15 minutes)
# Write a `nn.Module` with two `mlp`s, each with two hidden layers of `hidden` units: `decoder`,
# from `(n, k)` to logits `(n, d)`, and `encoder`. The method `posterior(x)` returns $z_\mu$ and
# $z_\sigma$ of $q_\phi(z \mid x)$, both `(n, k)`.


# %% tags=["exercise"]
class MyVae(nn.Module):
    def __init__(self, d, k, hidden=400):
        super().__init__()
        ...  # replace this by your code

    def posterior(self, x):
        return ...


checks.check_vae_networks(MyVae)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# What is assigned to `self` in `__init__` is found by optimisers. How many numbers must the encoder
# return for each image?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `tensor.chunk(2, -1)` halves the last axis. A network returns numbers of both signs; a standard
# deviation has one. `exp` and `F.softplus` map all numbers to positive ones; the second grows
# slowly, so that no odd image gets an enormous width.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
class Vae(nn.Module):
    """q(z | x) = N(mu, diag sigma^2), and the logits of p(x | z); x (n, d), z (n, k)."""

    def __init__(self, d, k, hidden=400):
        super().__init__()
        self.encoder = mlp(d, hidden, hidden, 2 * k)
        self.decoder = mlp(k, hidden, hidden, d)

    def posterior(self, x):
        """Mean and standard deviation of q(z | x): (n, d) -> (n, k), (n, k)."""
        mu, raw = self.encoder(x).chunk(2, -1)
        return mu, F.softplus(raw)


CourseVae = Vae
assert checks.check_vae_networks(Vae)

# %%
Vae = MyVae if checks.check_vae_networks(MyVae) else CourseVae
flat = Vae(d, 2, HIDDEN)
assert [part.shape for part in flat.posterior(torch.zeros(5, d))] == [(5, 2), (5, 2)]
assert flat.decoder(torch.zeros(5, 2)).shape == (5, d)

# %% [markdown] slideshow={"slide_type": "subslide"}
# In Pyro, the **model** is $p_\theta(x, z)$ and the **guide** is $q_\phi(z \mid x)$: two functions
# that draw. Five words say all of it:
#
# - `pyro.sample(name, distribution)` draws, under a name that ties model and guide together.
# - `obs=` in a sample: this was not drawn, it was observed.
# - `pyro.plate(name, size)` in a `with`: what stands in it happens for `size` cases independently.
# - `.to_event(1)` after a distribution: its last axis is *one* event, with one log density.
# - `pyro.module(name, network)` registers weights, so that the optimiser finds them.
#
# Distributions are `dist.Normal(mean, standard_deviation)` and `dist.Bernoulli(logits=…)`.
#
# ### Exercise 3: write the model (10 minutes)
# Write the story of section 3, in a plate `"images"`: for each of the `len(x)` images a latent `"z"`
# with `k` numbers, then its pixels `"x"`, which are observed.


# %% tags=["exercise"]
def my_model(vae, x, k):
    return ...  # replace this by your code; a model need not return anything


checks.check_vae_model(my_model)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# First register the network, then open the plate. Two samples stand in it.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The prior needs a mean and a standard deviation of shape `(n, k)`: `x.new_zeros(len(x), k)` makes
# zeros on the same device.
#
# </details>
# <details><summary>Hint 3</summary>
#
# Inside the plate each sample needs *one* log density per image. Which axis is left over, and which
# of the five words takes it?
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def model(vae, x, k):
    """p(x, z): a latent for each image, then its pixels; x (n, d)."""
    pyro.module("vae", vae)
    with pyro.plate("images", len(x)):
        zero = x.new_zeros(len(x), k)
        z = pyro.sample("z", dist.Normal(zero, torch.ones_like(zero)).to_event(1))  # (n, k)
        pyro.sample("x", dist.Bernoulli(logits=vae.decoder(z)).to_event(1), obs=x)  # (n, d)


course_model = model
assert checks.check_vae_model(model)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 4: write the guide (5 minutes)
# Now $q_\phi(z \mid x)$, with the same arguments and names. It registers the network as well.


# %% tags=["exercise"]
def my_guide(vae, x, k):
    return ...  # replace this by your code


checks.check_vae_guide(my_guide)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# The model draws twice. Which of the two does the guide have to propose?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Same plate, same name, same number of axes in the event as in the model. Only the distribution is
# another one.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def guide(vae, x, k):
    """q(z | x): the encoder's Gaussian; x (n, d)."""
    pyro.module("vae", vae)
    with pyro.plate("images", len(x)):
        mu, sigma = vae.posterior(x)
        pyro.sample("z", dist.Normal(mu, sigma).to_event(1))


course_guide = guide
assert checks.check_vae_guide(guide)

# %%
model = my_model if checks.check_vae_model(my_model) else course_model
guide = my_guide if checks.check_vae_guide(my_guide) else course_guide

# %% [markdown] slideshow={"slide_type": "subslide"}
# `SVI(model, guide, optimiser, loss)` has a method `step`, which takes the arguments of model and
# guide. It runs both, does the three lines of section 2 for *minus* the ELBO, and returns that,
# summed over the images it was given. The loss `TraceMeanField_ELBO()` uses the closed form of the
# rate; the default `Trace_ELBO()` estimates it with the same draw, equally right on average. The
# optimiser is `pyro.optim.Adam({"lr": …})`.
#
# No factor $N/B$ ($N$ data, $B$ of them in a batch) appears, unlike in the notebook on Bayesian
# networks. There, weights have a prior that must be balanced against all the data. Here, every
# latent belongs to one image, and $\theta, \phi$ are plain parameters.
#
# ### Exercise 5: write the training (15 minutes)
# Train `vae` in place, `epochs` times through the grey images `x`, in shuffled batches of 100 that
# are binarised afresh, with a learning rate of 0.003. Return for each epoch the mean loss over its
# steps, in nats per image. Pyro keeps the weights it has met under the name "vae": begin with
# `pyro.clear_param_store()`.


# %% tags=["exercise"]
def my_training(model, guide, vae, x, k, epochs):
    return ...  # replace this by your code


checks.check_vae_training(my_training)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `SVI` and the loader are made once, before the epochs. The two loops are those of section 2.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Each step returns a sum over its batch. Add up these sums over the epoch; by which number do you
# divide?
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def training(model, guide, vae, x, k, epochs):
    """Raise the ELBO of vae in place; grey x (n, d); mean loss of each epoch, nats per image."""
    pyro.clear_param_store()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 3e-3}), TraceMeanField_ELBO())
    loader, losses = DataLoader(x, batch_size=100, shuffle=True), []
    for _ in (shown := bar(range(epochs), desc="epochs")):
        total = 0.0
        for batch in loader:
            total += svi.step(vae, binarise(batch), k)
        losses.append(total / len(x))
        shown.set_postfix(loss=f"{losses[-1]:.1f}", refresh=False)
    return losses


course_training = training
assert checks.check_vae_training(training)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now train: $k = 2$, and layers, batches and epochs as in section 2. **Predict first:** by how much
# does it score better on the training digits than on new ones?

# %%
predict("first gap", "by a few nats at most", "by about 10 nats", "by more than 20 nats")

# %%
training = my_training if checks.check_vae_training(my_training) else course_training
seed_everything(SEED)
flat = Vae(d, 2, HIDDEN).to(device)
with torch.no_grad():
    flat.decoder[-1].bias.copy_(frequency.logit())
losses = training(model, guide, flat, grey_train, 2, EPOCHS)

# %% alt="Minus the ELBO per training image against the epoch: it falls steeply at first, then slowly." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(range(1, len(losses) + 1), losses, "o-")
_ = ax.set(xlabel="epoch", ylabel="−ELBO (nats per image)")

# %% [markdown]
# Each point is a mean over an epoch in which the weights were still moving. So it is no score. A
# score uses the final weights, and new images. The two parts of the bound in the open, for any VAE,
# with one draw of $z$ per image and noise of their own:


# %%
def distortion_and_rate(vae, x, noise=None):
    """Of binary images (n, d), in nats, both (n,); noise: a generator of random numbers."""
    mu, sigma = vae.posterior(x)
    eps = torch.randn(mu.shape, generator=noise, device=mu.device, dtype=mu.dtype)  # (n, k)
    return -log_bernoulli(x, vae.decoder(mu + sigma * eps)), gaussian_kl(mu, sigma)


@torch.no_grad()
def bound_terms(vae, x, seed=0):
    """The two without gradients, with noise that the seed decides."""
    return distortion_and_rate(vae, x, torch.Generator(x.device).manual_seed(seed))


sets = {"training": binarise(grey_train[:4000]), "validation": x_val, "test": x_test}
flat_scores = {name: -sum(bound_terms(flat, x)) for name, x in sets.items()}  # ELBO, (n,) each
by_pyro = TraceMeanField_ELBO().loss(model, guide, flat, x_test, 2) / len(x_test)
assert abs(by_pyro + flat_scores["test"].mean()) < 1  # the same up to the draws of z

# %% tags=["mistake-V6"]
for name, score in flat_scores.items():
    print("{:10s} ELBO {:.1f} ± {:.1f} nats per image".format(name, *mean_and_error(score)))
flat_elbo = flat_scores["test"].mean().item()
new = torch.cat([flat_scores["validation"], flat_scores["test"]])
(seen_mean, seen_error), (new_mean, new_error) = map(mean_and_error, (flat_scores["training"], new))
ahead, ahead_error = seen_mean - new_mean, (seen_error**2 + new_error**2) ** 0.5
print(f"training digits above new ones by {ahead:.1f} ± {ahead_error:.1f} nats")
assert -160 < flat_elbo < -140 and math.isclose(-losses[-1], seen_mean, abs_tol=5), EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "first gap",
    "by a few nats at most",
    "Probably since two latents have little room for single digits.",
)
assert -2 < ahead < 6, EXPECTED

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 What it learnt
# **Question:** is the plane of codes now one we can draw from? Take a grid that is even *under the
# prior*, quantiles along each axis, and decode it.

# %%
plane_x, plane_y = (
    dist.Normal(0.0, 1.0).icdf(torch.linspace(0.03, 0.97, points)) for points in (20, 7)
)
plane = torch.cartesian_prod(plane_y.flip(0), plane_x).flip(-1).to(device)  # rows: z_2 downwards
with torch.no_grad():
    drawn = flat.decoder(plane).sigmoid()  # (140, d), pixel means

# %% alt="Seven rows of twenty digits, decoded from a grid of two numbers. Neighbours look alike, and each kind of digit changes smoothly into the next." tags=["picture-first"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots(figsize=(7, 2.5))
_ = plot_images(drawn, rows=7, ax=ax)

# %% [markdown] slideshow={"slide_type": "subslide"}
# $z_1$ grows to the right and $z_2$ upwards. All are drawn, not reconstructed, and are means of the
# pixels. Between two kinds lies a blend.
#
# Where does the encoder put digits? Draw one $z$ from $q(z \mid x)$ for each. This cloud is the
# **aggregate posterior** $\bar q(z) = \frac1n \sum_i q(z \mid x_i)$. Where the two differ,
# a draw from the prior may fall where the decoder was not trained. **Predict first:** the prior puts 3 points in 10,000 beyond radius 4. How
# many of the encoded digits lie there?

# %%
predict("aggregate", "hardly any, as under the prior", "about 1 in 100", "about 1 in 5")

# %%
with torch.no_grad():
    mu_test, sigma_test = flat.posterior(x_test)
    z_test = mu_test + sigma_test * torch.randn_like(mu_test)  # (n, 2)

# %% tags=["picture-codes"] alt="Two clouds of test digits in the plane, each dot drawn as its digit. Left: draws from the VAE's posterior, around the origin, with dashed circles at one and two standard deviations of the prior; kinds lie in sectors, and arms reach beyond radius 4. Right: codes of the autoencoder on the same scale; its arms of zeros, ones and sevens leave the picture." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
equal = {"aspect": "equal", "xlim": (-5.5, 5.5), "ylim": (-5.5, 5.5)}
fig, axes = plt.subplots(1, 2, figsize=(9, 4.5), subplot_kw=equal)
plot_codes(z_test, digits.y_test, axes[0])
for radius in (1, 2):
    axes[0].add_patch(plt.Circle((0, 0), radius, fill=False, linestyle="--", zorder=3))
axes[0].set_title("VAE: draws from q(z | x)")
plot_codes(ae_codes, digits.y_test, axes[1])
outside = (ae_codes.abs() > 5.5).any(-1).float().mean()
_ = axes[1].set_title(f"autoencoder: codes, {outside:.0%} outside")

# %%
aggregate_mean, aggregate_sd = z_test.mean(0), z_test.std(0)
far = (z_test.norm(dim=-1) > 4).float().mean().item()
print("aggregate posterior: mean", aggregate_mean.cpu().numpy().round(2), "standard deviation",
      aggregate_sd.cpu().numpy().round(2))  # fmt: skip
print(f"beyond radius 4: {far:.2%} of the draws, {math.exp(-8):.2%} of the prior")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
times = far / math.exp(-8)
answer(
    "aggregate",
    "about 1 in 100",
    f"Centred alike; far out there are {times:.0f} times as many.",
)
assert aggregate_mean.abs().max() < 0.35, EXPECTED
assert ((0.9 < aggregate_sd) & (aggregate_sd < 1.4)).all(), EXPECTED
assert 0.002 < far < 0.05, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The dashed circles are one and two standard deviations of the prior. The rate has pulled the digits
# together, but the cloud is somewhat too wide, and no Gaussian: section 14 takes that up.
#
# ### The fair comparison
# Equal networks, steps and test digits. `Predictive` runs the model forwards; `uncondition` lets it
# forget that the pixels were observed.

# %%
forwards = Predictive(pyro.poutine.uncondition(model), num_samples=1)
z_new = forwards(flat, x_test[:14], 2)["z"][0]  # (14, 2), from the prior
with torch.no_grad():
    decoded["VAE + prior"] = flat.decoder(z_new).sigmoid()
rows = [(name, ae_distortion.item(), math.inf) for name in decoded if "auto" in name]
rows.append(("VAE + prior", *(term.mean().item() for term in bound_terms(flat, x_test))))

# %% jupyter={"source_hidden": true}
head = "| test digits, nats | distortion | rate | sum |\n| --- | --- | --- | --- |\n"
lines = [f"| {a} | {b:.1f} | {c:.1f} | {b + c:.1f} |" for a, b, c in rows]
display(Markdown(head + "\n".join(lines).replace("inf", "∞")))
assert rows[0][1] < rows[-1][1] + 3 and 4 < rows[-1][2] < 8, EXPECTED

# %% alt="Three rows of fourteen drawn digits, pixel means: autoencoder with a Gaussian, autoencoder with a mixture, VAE with its prior. Each row has clear digits and some smears." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(3, 1, figsize=(7, 2.8))
for ax, (name, images) in zip(axes, decoded.items(), strict=True):
    plot_images(images[:14], rows=1, ax=ax).set_title(f"{name} (means)", loc="left")

# %% [markdown]
# By eye the rows differ little. A sharper eye is a *classifier two-sample test* (Lopez-Paz and Oquab
# 2017): teach a classifier to tell draws from test digits. If it is right for half of the images
# that it was not taught with, it sees no difference.

# %% tags=["mistake-V12"] jupyter={"source_hidden": true}
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import SVC

mixed = x_test[torch.randperm(len(x_test), device=device)].split(400)
with torch.no_grad():
    rivals = {
        "autoencoder + mixture": decoder(torch.tensor(density.sample(400)[0]).to(x_test)).sigmoid(),
        "VAE + prior": flat.decoder(torch.randn(400, 2, device=device)).sigmoid(),
        "other test digits": mixed[1],
    }
told = {}
for name, probability in rivals.items():
    images = torch.cat([torch.bernoulli(probability), mixed[0]]).cpu().numpy()
    folds = StratifiedKFold(5, shuffle=True, random_state=SEED)
    told[name] = cross_val_score(SVC(), images, [0] * 400 + [1] * 400, cv=folds).mean()
print("; ".join(f"{name} {share:.0%}" for name, share in told.items()))
assert told["autoencoder + mixture"] < told["VAE + prior"] + 0.06, EXPECTED  # no more holes
assert abs(told["other test digits"] - 0.5) < 0.1 < told["VAE + prior"] - 0.5, EXPECTED

# %% [markdown]
# Both are found out, the autoencoder no more often than the VAE: given a density of its codes, it
# draws as well. But the VAE needed none, pays a finite price for its codes, and has a score.
#
# Move through the plane yourself: drag $z$, or walk from one digit to another. (The plane is
# that of seed 0; yours may differ.)

# %% jupyter={"source_hidden": true}
explore("digits")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 The score
# Two latents are for looking. For quality we take 32, and a function for any data `(n, d)` in
# $[0, 1]$ that can be copied into other work. `ScoredVae` is a `Vae` with scores in nats per row:
# the same tensor always gets the same scores, as the noise goes by row.


# %%
def as_pixels(x, binary=False, d=None):
    """Check rows (n, d) with values in [0, 1], only 0 and 1 if ``binary``; return them as floats.

    Raises:
        ValueError: If the shape or the values are different.
    """
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if x.ndim != 2 or not x.numel() or x.shape[1] != (d or x.shape[1]):
        raise ValueError(f"images must have shape (n, {d or 'd'}), not {tuple(x.shape)}")
    if not ((x >= 0) & (x <= 1)).all() or (binary and not ((x == 0) | (x == 1)).all()):
        wanted = "0 or 1: binarise them first" if binary else "in [0, 1]"
        raise ValueError(f"pixels must be {wanted}; found {x.min():.3g} to {x.max():.3g}")
    return x


# %% slideshow={"slide_type": "subslide"}
class ScoredVae(Vae):
    """A Vae with elbo(x), (n,) nats per row of 0 and 1, and sample(n) -> (n, d)."""

    def terms(self, x, seed=0):
        """Distortion and rate in nats, both (n,), with one draw of z per row."""
        x = as_pixels(x, binary=True).to(self.decoder[-1].bias)
        return bound_terms(self, x, seed)

    def elbo(self, x, seed=0):
        """Evidence lower bound in nats, (n,)."""
        return -sum(self.terms(x, seed))

    @torch.no_grad()
    def sample(self, n, seed=0, means=False):
        """Binary images drawn from the model, or their pixel means: (n, d)."""
        bias = self.decoder[-1].bias
        noise = torch.Generator(bias.device).manual_seed(seed)
        shape = (n, self.decoder[0].in_features)
        z = torch.randn(shape, generator=noise, device=bias.device, dtype=bias.dtype)
        probability = self.decoder(z).sigmoid()  # (n, d)
        return probability if means else torch.bernoulli(probability, generator=noise)


# %% [markdown] slideshow={"slide_type": "subslide"}
# Around a step stands what matters in practice:
#
# - the last **bias** of the decoder starts at the log-odds of the pixel frequencies, as above;
# - a **warm-up** raises the price of the rate from 0 to 1 over the first four fifths of the steps;
# - the learning rate makes **one cycle**: it climbs quickly, then falls to almost zero;
# - **weight decay** (the W of AdamW) pulls all weights towards zero;
# - at ten looks at the validation digits, the best weights are kept.


# %%
def batches(x, batch, steps):
    """As many shuffled batches as there are steps, pass after pass through the rows."""
    passes = itertools.repeat(DataLoader(x, batch_size=batch, shuffle=True))
    return itertools.islice(itertools.chain.from_iterable(passes), steps)


def new_vae(x, k, hidden, frequencies=True):
    """A ScoredVae; its last bias may start at the log-odds of the pixel frequencies of x (n, d)."""
    vae = ScoredVae(x.shape[1], k, hidden).to(x)
    if frequencies:
        with torch.no_grad():
            vae.decoder[-1].bias.copy_(x.mean(0).clamp(0.01, 0.99).logit())
    return vae


def loss_of(vae, x, price=1.0):
    """Mean over images of distortion + price * rate, with one draw of z: a number, nats."""
    distortion, rate = distortion_and_rate(vae, x)
    return (distortion + price * rate).mean()


# %% slideshow={"slide_type": "subslide"}
def fit_vae(x_train, x_val, *, k, seed, hidden=400, steps=1700, batch=200, lr=6e-3, beta=1.0,
            frequencies=True, warm_up=0.8, decay=0.1, watch=None):  # fmt: skip
    """Fit a ScoredVae to rows (n, d) in [0, 1]; watch(vae, step) is called ten times."""
    require(is_whole(steps, 10), "steps", "a whole number of at least 10", steps)
    torch.manual_seed(seed)
    x_train, x_val = as_pixels(x_train), binarise(as_pixels(x_val, d=x_train.shape[1]))
    vae, best, kept = new_vae(x_train, k, hidden, frequencies), math.inf, None
    optimiser = torch.optim.AdamW(vae.parameters(), weight_decay=decay, fused=True)  # one call
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.12)
    shown = bar(batches(x_train, batch, steps), total=steps, desc=f"k = {k}, β = {beta:g}")
    for step, x in enumerate(map(binarise, shown), 1):
        optimiser.zero_grad()
        loss_of(vae, x, beta * min(1, step / max(1, warm_up * steps))).backward()
        optimiser.step()
        schedule.step()
        if step % max(1, steps // 10) == 0 or step == steps:
            distortion, rate = vae.terms(x_val, seed)
            score = (distortion + beta * rate).mean().item()
            shown.set_postfix(loss=f"{score:.1f}", refresh=False)
            if score < best:
                best, kept = score, copy.deepcopy(vae.state_dict())
            if watch:
                watch(vae, step)
    vae.load_state_dict(kept)
    return vae


# %% [markdown] slideshow={"slide_type": "subslide"}
# While it trains, a picture grows: each row is decoded from the same eight $z$. **Predict
# first:** how much better than the VAE of section 5 does this one score, with 32 latents, wider
# networks and a longer training?

# %%
predict("latents", "by about 10 nats", "by about 50 nats", "by more than 90 nats")


# %%
@torch.no_grad()
def kl_per_latent(vae, x):
    """Mean KL(q(z_i | x) || p(z_i)) of each latent: (n, d) -> (k,), nats; the sum is the rate."""
    mu, sigma = vae.posterior(x)
    return gaussian_kl(mu[..., None], sigma[..., None]).mean(0)


# %%
def growing_picture(z, x, rates_seen):
    """A watcher: note the rate of each latent, decode z (m, k), and show all rows so far."""
    rows, handle = [], display(display_id=True)  # before the bar begins

    @torch.no_grad()
    def watch(vae, step):
        rates_seen.append((step, kl_per_latent(vae, x).cpu()))
        rows.append(vae.decoder(z).sigmoid())
        fig, ax = plt.subplots(figsize=(4.2, 0.5 * len(rows)))
        plot_images(torch.cat(rows), rows=len(rows), ax=ax)
        for row, (after, _) in enumerate(rates_seen):
            ax.text(-8, 28 * row + 14, f"{after:,}", ha="right", va="center")
        ax.set_title("steps", loc="left", x=-0.06)
        if handle:
            handle.update(fig)
        plt.close(fig)

    return watch


# %% alt="Ten rows of eight images, decoded from the same latents while the training goes on, with the step before each row. The first row is blurred; from the second or third on the shapes hardly change; a three has become a five, others have stopped being digits." slideshow={"slide_type": "subslide"}
rates_seen = []  # (step, rate of each latent in nats)
fixed = torch.randn(8, LATENT, generator=torch.Generator().manual_seed(SEED)).to(device)
watch = growing_picture(fixed, x_val, rates_seen)
vae = fit_vae(grey_train, x_val, k=LATENT, seed=SEED, steps=STEPS, watch=watch)

# %% [markdown]
# After a third of the steps the shapes hardly change. Some became another digit before that, some
# stopped being one. Now the score, on all test digits:

# %% tags=["mistake-V6"]
elbo = vae.elbo(x_test)  # (n,)
distortion, rate = (term.mean().item() for term in vae.terms(x_test))
print("test ELBO {:.1f} ± {:.1f} nats".format(*mean_and_error(elbo)),
      f"= -(distortion {distortion:.1f} + rate {rate:.1f})")  # fmt: skip
assert len(elbo) == len(x_test)  # every test digit counts
assert -100.5 < elbo.mean() < -96, EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
gain, gain_error = mean_and_error(elbo - flat_scores["test"])  # paired: the same digits
answer("latents", "by about 50 nats", f"Here {gain:.1f} ± {gain_error:.1f}, digit by digit.")
assert 40 < gain < 65, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# What was it worth? The same fit with one thing less, all else equal, three seeds
# (`benchmarks/learnt_priors.py`):
#
# {{ablation}}

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Look at the images
# Three kinds of pictures are easily confused: the **mean** of the pixels given a code, a binary
# **sample**, and a **reconstruction**, which has seen the image it shows. Only what starts from $z
# \sim p(z)$ is generated.

# %%
with torch.no_grad():
    mu, sigma = vae.posterior(x_test[:14])
    rebuilt = vae.decoder(mu + sigma * torch.randn_like(mu)).sigmoid()
means, samples = vae.sample(56, seed=SEED, means=True), vae.sample(56, seed=SEED)
nearest = torch.cdist(means[:14], grey_train).argmin(-1)  # (14,)
panels = {
    "test digits": x_test[:14],
    "their reconstructions (means)": rebuilt,
    "generated, z from the prior (means)": means,
    "the z of its first row (binary samples)": samples[:14],
    "training digits nearest to that row": grey_train[nearest],
}

# %% alt="Rows of fourteen images: test digits; their reconstructions, a little blurred; four rows of generated digits, some clear, some blends; ragged binary samples of the first of these rows; and the nearest training digits, which differ." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(5, 1, figsize=(7, 6), height_ratios=(1, 1, 3, 1, 1))
for ax, (name, images) in zip(axes, panels.items(), strict=True):
    plot_images(images, rows=len(images) // 14, ax=ax).set_title(name, loc="left")

# %%
own = grey_train[:100]
with torch.no_grad():
    remade = vae.decoder(vae.posterior(binarise(own))[0]).sigmoid()
apart = {"reconstruction of a training digit to its own": (remade - own).norm(dim=-1)}
for name, x in {"generated mean": means, "test digit": grey_test[:100]}.items():
    apart[f"{name} to the nearest training digit"] = torch.cdist(x, grey_train).min(-1).values
medians = [distance.median().item() for distance in apart.values()]
for name, distance in zip(apart, medians, strict=True):
    print(f"{name}: median distance {distance:.1f}")
assert medians[0] < 0.7 * min(medians[1:]) and 0.8 < medians[1] / medians[2] < 1.3, EXPECTED

# %% [markdown]
# Reconstructions keep the identity of most digits. Some generated images are blends that no hand has
# written (section 14 asks why). They lie as far from the training digits as test digits do. A
# reconstruction lies at half that distance from its original: a copy would show.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Collapse
# Without Pyro the loss takes three lines, and many scripts have it like this. It trains without any
# warning, and reports a small loss:
#
# ```python
# def buggy_loss(x, logits, mu, sigma):
#     reconstruction = F.binary_cross_entropy_with_logits(logits, x)
#     rate = gaussian_kl(mu, sigma).mean()
#     return reconstruction + rate
# ```
#
# What it draws is wrong. **Predict first:** up to a factor it is `loss_of` with another price of the
# rate. Which?

# %%
predict("price", "1/784, far too low", "28, too high", "784, far too high")

# %% [markdown]
# ### Exercise 6: find the bug (10 minutes)
# Write `my_vae_loss`: minus the ELBO of an image, averaged over the batch.


# %% tags=["exercise"]
def my_vae_loss(x, logits, mu, sigma):
    return ...  # replace this by your code


checks.check_vae_loss(my_vae_loss)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Try it on paper: one image with two pixels, then the same image with every pixel doubled. What
# should the distortion do, and what does `buggy_loss` do?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Which axes does `binary_cross_entropy_with_logits` average over when you do not say anything?
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def vae_loss(x, logits, mu, sigma):
    """Distortion + rate in nats per image, averaged over the batch."""
    distortion = -log_bernoulli(x, logits)  # (n,)
    return (distortion + gaussian_kl(mu, sigma)).mean()


course_vae_loss = vae_loss
assert checks.check_vae_loss(vae_loss)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Train a small VAE with each loss. Two numbers judge them besides the ELBO: the rate, and the number
# of **active units**: latents whose posterior mean $z_\mu(x)$ varies over the images with a
# variance above 0.01 (Burda et al. 2016). A latent whose $q$ does not vary
# tells the decoder nothing.

# %%
vae_loss = my_vae_loss if checks.check_vae_loss(my_vae_loss) else course_vae_loss


def buggy_loss(x, logits, mu, sigma):
    """The one above."""
    return F.binary_cross_entropy_with_logits(logits, x) + gaussian_kl(mu, sigma).mean()


@torch.no_grad()
def active_units(vae, x):
    """Number of latents whose posterior mean varies over the images with variance over 0.01."""
    mu, _ = vae.posterior(x)
    return int((mu.var(0) > 0.01).sum())


# %% slideshow={"slide_type": "subslide"}
def train_with(loss, x, steps, k=10):
    """A small ScoredVae, trained on grey images (n, d) with a loss of its own."""
    vae = new_vae(x, k, 200)
    optimiser = torch.optim.Adam(vae.parameters(), lr=3e-3)
    for grey in bar(batches(x, 100, steps), total=steps):
        image = binarise(grey)
        mu, sigma = vae.posterior(image)
        z = mu + sigma * torch.randn_like(mu)
        optimiser.zero_grad()
        loss(image, vae.decoder(z), mu, sigma).backward()
        optimiser.step()
    return vae


small_vaes = {
    "buggy": train_with(buggy_loss, grey_train, BUG_STEPS),
    "cured": train_with(vae_loss, grey_train, BUG_STEPS),
}

# %% tags=["mistake-V10"]
for name, trained in small_vaes.items():
    distortion, rate = (term.mean().item() for term in trained.terms(x_test))
    units = active_units(trained, x_test)
    print(f"{name}: 'loss per pixel' {distortion / d:.3f}, rate {rate:5.2f}, "
          f"active units {units}, ELBO {-distortion - rate:.1f}")  # fmt: skip
    assert (units == 0 and rate < 0.1) if name == "buggy" else units >= 5, EXPECTED

# %% alt="Two rows of fourteen generated images. Buggy: the same grey blob each time. Cured: varied images, many of them digits." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(2, 1, figsize=(7, 2))
for ax, (name, trained) in zip(axes, small_vaes.items(), strict=True):
    drawn = trained.sample(14, seed=SEED, means=True)
    plot_images(drawn, rows=1, ax=ax).set_title(f"{name}: generated (means)", loc="left")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
with torch.no_grad():
    mu, sigma = small_vaes["cured"].posterior(x_test)
    logits = small_vaes["cured"].decoder(mu)
weighed = (d * gaussian_kl(mu, sigma) - log_bernoulli(x_test, logits)).mean() / d
assert torch.allclose(buggy_loss(x_test, logits, mu, sigma), weighed)
why = "The mean divides the distortion by images *and pixels*, the rate by images only."
answer("price", "784, far too high", f"{why} A code costs more than it saves.")

# %% [markdown]
# The first model has **collapsed**: $q(z \mid x)$ is the prior, whatever the image, and its
# pictures are all the same blob. Rate and active units detect the
# collapse at once. Here the cure is the right loss. Collapse can also come with the *right* loss: a
# powerful decoder does without codes, or the rate wins before the decoder has learnt anything.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 Where everything is known
# **Question:** how close to $\log p(x)$ do brute force and the bound come where it is known? Take a
# row of 20 lamps and a position $z \sim N(0, 1)$: lamps near $z$ are probably on, the others off.
# One dimension can be integrated on a grid. So for each of 32 rows we add up $p(x \mid z)\, p(z)$
# over 4,001 values of $z$, in logarithms, by `logsumexp`.

# %%
LAMPS = 20


def lamp_logits(z):
    """Log-odds that each lamp is on: (...,) -> (..., LAMPS)."""
    place = torch.linspace(-3, 3, LAMPS, device=z.device, dtype=z.dtype)
    return 2 - 4 * (z[..., None] - place).square()


def log_normal(z):
    """log N(z; 0, 1) in nats, elementwise."""
    return -0.5 * (z.square() + math.log(2 * math.pi))


# %% slideshow={"slide_type": "subslide"}
# Double precision, and so on the CPU: the GPUs of Apple do not have it.
seed_everything(SEED)
z_true = torch.randn(32, dtype=torch.double)  # one position per row of lamps
lamps = binarise(lamp_logits(z_true).sigmoid())  # (32, LAMPS)
grid = torch.linspace(-6, 6, 4001, dtype=torch.double)
log_given = log_bernoulli(lamps[:, None], lamp_logits(grid).expand(32, -1, -1))  # (32, grid)
log_joint = log_given + log_normal(grid)
log_exact = log_joint.logsumexp(-1) + math.log(12 / 4000)  # (32,), nats
assert log_exact.shape == (32,) and (log_exact < 0).all()

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Brute force
# The definition suggests an estimate: the average of $p(x \mid z)$ over draws from the prior. A
# digit has more than one degree of freedom. So take $k$ independent rows as *one* image with $k$
# latents; its exact log likelihood is the sum of theirs. **Predict first:** if 1,000 draws are
# enough for $k = 1$, how many are as good for $k = 8$?

# %%
predict("lamps", "about 8,000, eight times as many", "about 64,000, eight times eight", "millions")


# %%
def brute_force(k, draws):
    """log of the mean over prior draws of p(x | z), for the first k rows of lamps as one image."""
    parts = torch.randn(draws, k, dtype=torch.double).split(1000)  # saves memory
    log_likelihood = torch.cat([log_bernoulli(lamps[:k], lamp_logits(z)).sum(-1) for z in parts])
    return (log_likelihood.logsumexp(0) - math.log(draws)).item()


rows_of_lamps, missing = (1, 2, 4, 8, 16), {}
truth = log_exact.cumsum(0)[[k - 1 for k in rows_of_lamps]]  # log p(x) of the first k rows
for draws in (100, 1000, 10_000):
    tries = [[brute_force(k, draws) for k in rows_of_lamps] for _ in range(10)]
    missing[draws] = truth - torch.tensor(tries, dtype=torch.double)  # (10, 5), nats

# %% alt="Missing nats against the latent dimension for 100, 1,000 and 10,000 draws. All three curves begin near zero at dimension 1 and climb to more than a hundred nats at 16. Some of the vertical bars, the smallest and the largest of ten tries, reach below zero up to dimension 4." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots()
for (draws, tries), shift in zip(missing.items(), (0.95, 1, 1.05), strict=True):
    mean, places = tries.mean(0), [shift * k for k in rows_of_lamps]  # bars side by side
    reach = torch.stack([mean - tries.amin(0), tries.amax(0) - mean])
    ax.errorbar(places, mean, reach, fmt="o-", capsize=4, label=f"{draws:,} draws")
ax.set(xlabel="latent dimension $k$ (logarithmic)", xscale="log", ylim=(-3, 600))
ax.set_ylabel("missing log likelihood (nats)\nlinear below 1, logarithmic above", fontsize=10)
ax.set_xticks(rows_of_lamps, labels=rows_of_lamps)
ax.set_yscale("symlog", linthresh=1)
_ = ax.legend()

# %%
short, *_, long = missing[10_000].mean(0).tolist()
print(f"with 10,000 draws {short:.2f} nats are missing for k = 1, {long:.0f} for k = 16")
assert abs(short) < 0.1

# %% [markdown]
# Dots are means of ten tries, bars their range. Below zero, draws hit by luck: an average can be too
# large.
#
# So what does $k = 8$ need? The relative variance of an average of $S$ draws is $(m - 1)/S$, where
# $m$ is the mean of the squared likelihood over the square of its mean. On the grid $m$ is exact
# for one row; for $k$ independent rows these numbers are multiplied.

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
log_square = (log_given + log_joint).logsumexp(-1) + math.log(12 / 4000) - 2 * log_exact  # log m
needed = 1000 * (log_square[:8].sum().exp() - 1) / (log_square[0].exp() - 1)
why = f"These lamps need {needed / 1e6:,.0f} million: a draw must explain all eight rows at once. "
answer("lamps", "millions", why + "Each further row multiplies the need by its own $m$.")
assert needed > 1e6 and missing[100].mean(0)[-1] > long > 10

# %% [markdown] slideshow={"slide_type": "subslide"}
# The $z$ that explain an image fill a share of the prior that shrinks exponentially with the number
# of latents that matter. So draws are needed from the **posterior**. Note the sign, too: the
# logarithm of an unbiased estimate is too small on average (Jensen's inequality).
#
# ### The bound
# Now fit one Gaussian $q$ per row by gradient ascent on the ELBO; `requires_grad_` marks what is
# trained. Sections 12, 15 and 16 use `fit_q` again. **Predict first:** how close does a Gaussian
# come?

# %%
predict("gaussian lamps", "within 0.05 nats", "about half a nat", "several nats")


# %%
def fit_q(mu, sigma, log_likelihood, *, draws, steps, lr):
    """Fit a Gaussian to the posterior of each of n rows by its ELBO: mean and sd, both (n, k).

    It starts at mu and sigma, (n, k). log_likelihood maps z (draws, n, k) to (draws, n), nats.
    """
    mu, log_sigma = mu.clone().requires_grad_(), sigma.log().requires_grad_()
    optimiser = torch.optim.Adam([mu, log_sigma], lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)  # so that noise dies away
    for _ in (shown := bar(range(steps), desc="own q", disable=len(mu) < 20)):
        z = mu + log_sigma.exp() * torch.randn_like(mu.expand(draws, -1, -1))
        loss = (gaussian_kl(mu, log_sigma.exp()) - log_likelihood(z).mean(0)).sum()
        optimiser.zero_grad()
        loss.backward(inputs=[mu, log_sigma])  # no weight of a decoder gets a gradient
        optimiser.step()
        slower.step()
        shown.set_postfix(loss=f"{loss.item() / len(mu):.2f}", refresh=False)
    return mu.detach(), log_sigma.detach().exp()


# %%
def lamps_given(z):
    """log p(x | z) of each row of lamps in nats: (draws, 32, 1) -> (draws, 32)."""
    return log_bernoulli(lamps, lamp_logits(z[..., 0]))


top = grid[log_joint.argmax(-1)][:, None]  # (32, 1), where the posterior is largest
location, scale = fit_q(top, torch.full_like(top, 0.14), lamps_given, draws=64, steps=300, lr=0.05)

# %%
log_q = dist.Normal(location, scale).log_prob(grid)  # (32, grid)
elbo_lamps = (log_q.exp() * (log_joint - log_q)).sum(-1) * 12 / 4000  # (32,), no Monte Carlo
gap = log_exact - elbo_lamps  # this is KL(q || posterior)
print(f"mean gap {gap.mean().item():.4f} nats, largest {gap.max().item():.4f}")
assert gap.min() > -1e-6

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "gaussian lamps",
    "within 0.05 nats",
    "The posterior of a position is nearly Gaussian, and the gap measures just that.",
)
assert gap.mean() < 0.05

# %% alt="Left: the gaps of 32 rows of lamps in increasing order, on a logarithmic axis; all are positive, and below a hundredth of a nat. Right: exact posterior and fitted Gaussian for the rows with the smallest and the largest gap; the first pair coincides, in the second the posterior is a little skewed." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4))
axes[0].semilogy(range(1, 33), gap.clamp(min=1e-6).sort().values, "o")
axes[0].set(xlabel="rank of the row of lamps", ylabel="log p(x) − ELBO (nats)")
posterior_density = (log_joint - log_exact[:, None]).exp()
for row, colour in ((gap.argmin(), "blue"), (gap.argmax(), "orange")):
    axes[1].plot(grid, posterior_density[row], color=PALETTE[colour], alpha=0.5, linewidth=4)
    name = f"gap {gap[row]:.1g} nats"
    axes[1].plot(grid, log_q[row].exp(), "--", color=PALETTE["black"], linewidth=1)
    axes[1].plot([], [], color=PALETTE[colour], alpha=0.5, linewidth=4, label=name)
middles = [location[row].item() for row in (gap.argmin(), gap.argmax())]
axes[1].set(
    xlim=(min(middles) - 1, max(middles) + 1), ylim=(0, 4), xlabel="position $z$", ylabel="density"
)
_ = axes[1].legend(title="posterior; dashed: its q", fontsize=9, title_fontsize=9)

# %% [markdown]
# Left: the 32 gaps in order. None is negative: the ELBO is a bound, and here a tight one. The gap
# is $\text{KL}(q \| p(z \mid x))$ and nothing else. Right: the best and the worst row. The worse a
# Gaussian fits the posterior, the larger the gap. Here the expectation over $q$ was taken on the
# grid, without noise. With many latents the ELBO is itself estimated, but with *small* variance:
# $q$ looks where the integrand lives.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 Another likelihood
# **Question:** with an encoder and noisy gradients, does the bound really reach the log likelihood?
# The *linear* VAE, with a Gaussian likelihood, can tell:
#
# $$ z \sim N(0, I), \qquad x \mid z \sim N(W z, \ s^2 I), \qquad
# q(z \mid x) = N\big(V x,\ \text{diag}(z_\sigma^2)\big). $$
#
# $W$ and $V$ are the weights of decoder and encoder; $s$, one number, is the noise's standard deviation. The data, *grey* digits shrunk to 7 × 7
# pixels, have their mean subtracted. A log density is no log probability: it can be positive, and
# must never be compared with a score of black and white digits.
#
# This is **probabilistic principal component analysis** (Tipping and Bishop 1999). Its best log
# likelihood is known, from the eigenvalues $\lambda_1 \ge \lambda_2 \ge \dots$ of the data's
# covariance matrix. There $s^2$ is the mean of all but the first $k$, and
#
# $$ \max \tfrac1n \log p = -\tfrac12 \Big( d \log 2\pi + \sum_{i \le k} \log \lambda_i +
# (d - k) \log s^2 + d \Big). $$

# %% tags=["nbval-check-output"]
pooled = F.avg_pool2d(grey_train.view(-1, 1, 28, 28), 4).flatten(1)  # (n, 49)
pooled = pooled - pooled.mean(0)
on_cpu = pooled.cpu().double()


def best_linear(x, k):
    """W (d, k), s and the mean log density (nats) of the best probabilistic PCA of data (n, d)."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))  # ascending
    rest, kept = values[:-k], values[-k:]
    logs = kept.log().sum() + len(rest) * rest.mean().log()
    log_density = -0.5 * (len(values) * (math.log(2 * math.pi) + 1) + logs)
    return vectors[:, -k:] * (kept - rest.mean()).sqrt(), rest.mean().sqrt(), log_density.item()


best = best_linear(on_cpu, 2)[-1]
print(f"best possible mean log density for k = 2: {best:.3f} nats per digit")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 7: the exact posterior (20 minutes)
# Derive $p(z \mid x)$ of the linear model with pencil and paper, and code it. Its covariance is the
# same for all rows.


# %% tags=["exercise"]
def my_ppca_posterior(x, w, s):  # (n, d), W (d, k), a float
    return ...  # replace this by your code: means (n, k), covariance (k, k)


checks.check_ppca_posterior(my_ppca_posterior)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# The log posterior is a quadratic in $z$: collect the terms of $-\frac{1}{2s^2}\|x - Wz\|^2 -
# \frac12\|z\|^2$. Where is its maximum, and what is its curvature?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The covariance is the inverse of the curvature, with a minus sign. `torch.linalg.inv` and
# `torch.linalg.solve` invert; your data are *rows*.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def ppca_posterior(x, w, s):
    big_m = w.T @ w + s**2 * torch.eye(w.shape[1], dtype=w.dtype)
    mean = x @ torch.linalg.solve(big_m, w.T).T
    return mean, s**2 * torch.linalg.inv(big_m)


course_ppca_posterior = ppca_posterior
assert checks.check_ppca_posterior(ppca_posterior)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 8: change the likelihood (25 minutes)
# Build the linear VAE, and give it the model of section 5 with the new likelihood. *Your* guide
# from there stays as it is. The check trains your VAE on data whose best value it knows.


# %% tags=["exercise"]
class MyLinearVae(nn.Module):
    def __init__(self, d, k):
        super().__init__()  # encoder and decoder: an nn.Linear each, without an offset
        ...  # the noise s, and a width of q for each latent, are learnt as well

    def noise(self):
        return ...  # s

    def posterior(self, x):
        return ...  # mean and standard deviation of q(z | x), both (n, k)

    def model(self, x, k):
        return ...


checks.check_linear_vae(MyLinearVae)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# What is learnt beside networks is an `nn.Parameter`. An optimiser may move it to any real number,
# but a standard deviation is positive: learn something of which it is a function.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In the model only the line with `obs=x` changes. `pyro.module("vae", self)` registers all that
# belongs to the object. The plate has the name that the guide uses, `"images"`.
#
# </details>
# <details><summary>Hint 3</summary>
#
# One width per latent has shape `(k,)`; `expand_as` repeats it for each image.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
class LinearVae(nn.Module):
    """z ~ N(0, I), x | z ~ N(W z, s^2 I), q(z | x) = N(V x, diag z_sigma^2); x (n, d)."""

    def __init__(self, d, k):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d, k, bias=False), nn.Linear(k, d, bias=False)
        self.log_noise, self.log_width = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(k))

    def noise(self):
        return self.log_noise.exp()

    def posterior(self, x):
        mu = self.encoder(x)  # (n, k)
        return mu, self.log_width.exp().expand_as(mu)

    def model(self, x, k):
        pyro.module("vae", self)
        with pyro.plate("images", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), k), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), self.noise()).to_event(1), obs=x)


assert checks.check_linear_vae(LinearVae)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict first:** nobody tells the encoder what the exact posterior is. Will it find it?

# %%
predict("linear", "yes, mean and width", "the mean, but too narrow a width", "neither")


# %%
@torch.no_grad()
def linear_elbo(vae, x):
    """ELBO of the linear VAE, the expectation over q in closed form: (n, d) -> (n,), nats."""
    w, s, (mu, sigma) = vae.decoder.weight, vae.noise(), vae.posterior(x)
    # E |x - W z|^2 = |x - W mu|^2 + sum of W_ji^2 sigma_i^2
    square = (x - mu @ w.T).square().sum(-1) + (sigma.square() @ w.square().T).sum(-1)  # (n,)
    log_norm = 0.5 * x.shape[1] * (2 * math.pi * s**2).log()
    return -0.5 * square / s**2 - log_norm - gaussian_kl(mu, sigma)


@torch.no_grad()
def linear_log_likelihood(vae, x):
    """log N(x; 0, W W^T + s^2 I): (n, d) -> (n,), nats."""
    w, s = vae.decoder.weight, vae.noise()
    covariance = w @ w.T + s**2 * torch.eye(len(w), device=w.device)
    return dist.MultivariateNormal(torch.zeros_like(x[0]), covariance).log_prob(x)


# %% slideshow={"slide_type": "subslide"}
pyro.clear_param_store()
seed_everything(SEED)
passed = checks.check_linear_vae(MyLinearVae)
linear = (MyLinearVae if passed else LinearVae)(49, 2).to(device)
untrained = copy.deepcopy(linear)
optimiser = pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.996})  # lr falls by 0.4 % per step
svi = SVI(lambda vae, x, k: vae.model(x, k), guide, optimiser, TraceMeanField_ELBO())
curve = {"bound": [], "exact log likelihood": []}
for _ in (shown := bar(range(max(1, LINEAR_STEPS // 40)), desc="epochs")):
    for x in DataLoader(pooled, 400, shuffle=True):
        svi.step(linear, x, 2)
    curve["bound"].append(linear_elbo(linear, pooled).mean().item())
    curve["exact log likelihood"].append(linear_log_likelihood(linear, pooled).mean().item())
    shown.set_postfix(loss=f"{-curve['bound'][-1]:.2f}", refresh=False)

# %%
reached, likely = (values[-1] for values in curve.values())
print(f"bound {reached:.4f} <= log likelihood {likely:.4f} <= best {best:.4f} nats per digit")
assert reached <= likely + 1e-3 and likely <= best + 1e-3
assert best - reached < 0.05, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The bound is within 0.05 nats of the best value. Now compare $q(z \mid x)$ with the exact
# posterior, by your formula if it has passed.

# %%
passed = checks.check_ppca_posterior(my_ppca_posterior)
ppca_posterior = my_ppca_posterior if passed else course_ppca_posterior


@torch.no_grad()
def both_posteriors(vae, x):
    """Mean (n, 2) and sd (2,) of the guide; mean and covariance (2, 2) of the exact posterior."""
    mu, sigma = (part.cpu() for part in vae.posterior(x))
    exact = ppca_posterior(x.cpu(), vae.decoder.weight.cpu(), vae.noise().item())
    return mu, sigma[0], *(torch.as_tensor(part).float() for part in exact)


compared = {"untrained": both_posteriors(untrained, pooled)}
compared["trained"] = both_posteriors(linear, pooled)
for name, (mu, guide_sd, mean, covariance) in compared.items():
    mean_error, exact_sd = (mu - mean).square().mean().sqrt(), covariance.diagonal().sqrt()
    correlation = (covariance[0, 1] / exact_sd.prod()).item()
    print(f"{name}: means differ by {mean_error:.3f} (root mean square); sd of the guide "
          f"{guide_sd.numpy().round(3)}, exact {exact_sd.numpy().round(3)}")  # fmt: skip
cost = -0.5 * math.log(1 - correlation**2)
print(f"trained, exact correlation: {correlation:.3f}, which costs {cost:.4f} nats of the bound")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "linear",
    "yes, mean and width",
    "The ELBO is largest where $q$ is the exact posterior, if $q$ can be that.",
)
assert mean_error < 0.1, EXPECTED
assert (guide_sd / exact_sd - 1).abs().max() < 0.1, EXPECTED

# %% alt="Left: what is missing to the best possible value falls from about twenty nats to a hundredth on a logarithmic axis, for the bound and, below it, for the exact log likelihood. Middle: untrained, the circles of the guide are about three times as wide as those of the exact posterior. Right: trained, they lie on top of each other for all eight digits." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 3, figsize=(12, 3.8))
for (name, values), style in zip(curve.items(), ("o-", "s--"), strict=True):
    axes[0].semilogy(range(1, len(values) + 1), [best - v for v in values], style, label=name)
axes[0].set(xlabel="epoch", ylabel="missing to the best (nats per digit)")
axes[0].legend()
turn = torch.linspace(0, 2 * math.pi, 60)
circle = torch.stack([turn.cos(), turn.sin()], -1)  # one standard deviation
for ax, (name, (mu, sigma, mean, covariance)) in zip(axes[1:], compared.items(), strict=True):
    for row in range(8):
        true = mean[row] + circle @ torch.linalg.cholesky(covariance).T
        ours, shown = mu[row] + circle * sigma, row == 0
        ax.plot(*true.T, color=PALETTE["orange"], label="exact" if shown else None)
        ax.plot(*ours.T, "--", color=PALETTE["blue"], label="guide" if shown else None)
    ax.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", title=f"{name}: eight digits, 1 sd")
_ = axes[2].legend(fontsize=9, loc="lower right")

# %% [markdown]
# Left, on a logarithmic axis: the bound, and the log likelihood of the same model, approach the
# best value. Middle: untrained, the guide is three times too wide. Right: trained, it fits. A diagonal
# guide is exact only where the posterior has no correlation $\rho$. At the optimum it has none
# (Lucas et al. 2019); what is left costs $-\frac12 \log(1 - \rho^2)$ nats, too little to vanish
# fast.
#
# ### A dial that nobody sees
# A squared error is a Gaussian likelihood of fixed variance. Scripts that minimise $1000 \cdot
# \text{MSE} + \text{KL}$, with the mean over $d = 784$ pixels, have set it to $d / 2000$ without
# saying so:

# %% tags=["nbval-check-output", "mistake-V2"]
rebuilt, variance = 0.9 * grey_test[:50] + 0.05, d / 2000
loss = 1000 * (grey_test[:50] - rebuilt).square().mean(-1)  # (50,)
log_density = dist.Normal(rebuilt, variance**0.5).log_prob(grey_test[:50]).sum(-1)
left_out = 0.5 * d * math.log(2 * math.pi * variance)
print(f"variance {variance:.3f}; constant left out of the loss: {left_out:.1f} nats per image")
assert torch.allclose(loss + left_out, -log_density, rtol=1e-4)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 9: grey pixels done right (30 minutes)
# A Gaussian puts mass below 0 and above 1. The **continuous Bernoulli** (Loaiza-Ganem and
# Cunningham 2019) does not: $p(x \mid \lambda) = C(\lambda)\, \lambda^x (1 - \lambda)^{1-x}$ for
# $x$ in $[0, 1]$, with a parameter $\lambda$ in $(0, 1)$ (no eigenvalue here), where $C(\lambda)$ makes the integral 1. Find it, and write the log density.
# Networks train in 32 bits and meet logits of 0 and of ±100: values and gradients must be right
# there, too.


# %% tags=["exercise"]
def my_continuous_bernoulli(x, logits):  # grey pixels, log(lambda / (1 - lambda)): both (n, d)
    return ...  # replace this by your code: (n,), nats, summed over pixels


checks.check_continuous_bernoulli(my_continuous_bernoulli)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# With the logit $l$, the density is proportional to $e^{l x}$ on $[0, 1]$. Integrate that.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Near $l = 0$ the integral is $0/0$: what are the first two terms of its series? For large $|l|$,
# take what overflows out of the logarithm. `torch.expm1` loses no digits.
#
# </details>
# <details><summary>Hint 3</summary>
#
# `torch.where` computes both branches, and their gradients. So give the branch that is not chosen
# a harmless number, *before* it computes.
#
# </details>


# %% tags=["solution"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# Solution
def solution_continuous_bernoulli(x, logits):
    small = logits.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(logits), logits)
    size = safe.abs()  # log((e^l - 1) / l) = max(l, 0) + log((1 - e^-|l|) / |l|)
    large = safe.clamp(min=0) + ((-size).expm1().neg() / size).log()
    log_integral = torch.where(small, logits / 2, large)
    return (logits * x - log_integral).sum(-1)


assert checks.check_continuous_bernoulli(solution_continuous_bernoulli)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 11 How a gradient passes a draw
# **Question:** training needs the gradient of $E_q[f(z)]$ by the parameters of $q$. How does it get
# past a random draw? The *score function* (REINFORCE) keeps the draw and moves its log probability.
# *Reparametrisation* writes $z = \mu + \sigma\, \varepsilon$ and moves the draw:
#
# $$ \nabla_\mu E_q[f(z)] = E_q\big[f(z)\, \nabla_\mu \log q(z)\big]
# \qquad\text{or}\qquad \nabla_\mu E_q[f(z)] = E_\varepsilon\big[\nabla_z f(z)\big]. $$
#
# The first uses only the *value* of $f$, the second its *slope*. A crutch of the first: subtract a
# *baseline* from $f$. That calms the noise, and leaves the mean alone if the baseline does not
# depend on the draw. The average of $f$ over all draws does.
#
# ### Exercise 10: leave one out (10 minutes)
# Write the estimate whose baseline, for each draw, is the mean of $f$ over the *other* draws.


# %% tags=["exercise"]
def my_leave_one_out(f, score):  # values (S,), gradients by mu of log q(z) (S, k)
    return ...  # replace this by your code: one estimate per draw, (S, k)


checks.check_leave_one_out(my_leave_one_out)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# No loop is needed. The sum over the others is the sum over all, less one.
#
# </details>
# <details><summary>Hint 2</summary>
#
# How many others are there? `[:, None]` turns `(S,)` into `(S, 1)`.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def leave_one_out(f, score):
    others = (f.sum() - f) / (len(f) - 1)  # (S,)
    return (f - others)[:, None] * score


course_leave_one_out = leave_one_out
assert checks.check_leave_one_out(leave_one_out)

# %% [markdown] slideshow={"slide_type": "subslide"}
# A test with a known answer: the best linear VAE of section 10, one digit, its posterior as $q$,
# and $f(z) = \log p(x \mid z)$; then $\nabla_\mu E_q[f] = W^\top(x - W\mu)/s^2$. **Predict
# first:** with $k = 2$, how many draws of the score function, without a baseline, are worth one
# reparametrised draw?

# %%
predict("draws", "one: both are unbiased", "about five", "more than twenty")

# %%
leave_one_out = (
    my_leave_one_out if checks.check_leave_one_out(my_leave_one_out) else course_leave_one_out
)


def draw_gradients(x, w, s, draws):
    """The exact gradient (k,) by mu of E[log p(x | z)], and f (draws,), score, slope (draws, k)."""
    mean, covariance = ppca_posterior(x[None], w, s)
    mu, sigma = mean[0], covariance.diagonal().sqrt()  # W has orthogonal columns
    z = mu + sigma * torch.randn(draws, len(mu), dtype=x.dtype)
    f = dist.Normal(z @ w.T, s).log_prob(x).sum(-1)
    return w.T @ (x - w @ mu) / s**2, f, (z - mu) / sigma**2, (x - z @ w.T) @ w / s**2


def group_means(estimate, f, score, size):
    """Means of an estimate over groups of so many draws: they are independent, (groups, k)."""
    groups = zip(f.split(size), score.split(size), strict=True)
    return torch.stack([torch.as_tensor(estimate(*group)).mean(0) for group in groups])


# %% slideshow={"slide_type": "subslide"}
def draws_worth_one(k, draws=20_000):
    """How many draws of each estimate are worth one reparametrised draw, with k latents."""
    w, s, _ = best_linear(on_cpu, k)
    exact_gradient, f, score, slope = draw_gradients(on_cpu[0], w, s.item(), draws)
    estimates = {"reparametrised": (slope, 1), "score function": (f[:, None] * score, 1)}
    for size in (2, 20):
        rows = slice(3000 * size)  # at most 3,000 groups
        values = group_means(leave_one_out, f[rows], score[rows], size)
        estimates[f"leave one out, S = {size}"] = values, size
    spent = {}  # variance of one draw, summed over latents
    for name, (values, size) in estimates.items():
        mean, error = mean_and_error(values)
        assert ((mean - exact_gradient).abs() < 6 * error + 1e-3).all(), name  # unbiased
        spent[name] = size * values.var(0).sum().item()
    reference = spent.pop("reparametrised")
    return {name: variance / reference for name, variance in spent.items()}


latents = (1, 2, 5, 10, 20, 40)
by_latents = [draws_worth_one(k) for k in latents]
worth = {name: [row[name] for row in by_latents] for name in by_latents[0]}
ratio, ratio_pair, ratio_many = (values[latents.index(2)] for values in worth.values())

# %% alt="Draws that are worth one reparametrised draw against the number of latents, both axes logarithmic: the score function needs hundreds at one latent and 30,000 at 40. With the leave-one-out baseline it needs about three at one latent; at 40, nearly fifty with two draws and about half of that with twenty." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots(figsize=(7, 3.6))
for (name, values), style in zip(worth.items(), ("o-", "s-", "^-"), strict=True):
    ax.loglog(latents, values, style, label=name)
ax.axhline(1, linestyle="--", color=PALETTE["black"], label="reparametrised")
ax.set_xticks(latents, labels=latents)
ax.set(xlabel="latents $k$ (logarithmic)", ylabel="draws worth one reparametrised")
_ = ax.legend(fontsize=10)

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
pair_ten, many_ten = (found[latents.index(10)] for found in list(worth.values())[1:])
answer(
    "draws",
    "more than twenty",
    f"Here {ratio:.0f}. With a baseline from one other draw (S = 2) it is {ratio_pair:.1f}, from 19 "
    f"others (S = 20) {ratio_many:.1f}; for ten latents {pair_ten:.1f} and {many_ten:.1f}.",
)
assert ratio > 20 and 1 < ratio_many < many_ten / 2, EXPECTED
assert ratio_many < ratio_pair < 2.5 * ratio_many and many_ten < pair_ten, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# Both axes are logarithmic. The number without a baseline means little: a constant added to $f$
# changes it. With the baseline, the price of ignoring the slope grows with $k$, and falls with $S$,
# the number of draws that share baselines. For discrete $z$, where there is no slope, the score
# function remains useful.
#
# The mean over *all* $S$ draws as a baseline makes the gradient too small, by a factor $1 - 1/S$.
# With two draws it is a half:

# %% tags=["mistake-V13"]
w, s, _ = best_linear(on_cpu, 2)
exact_gradient, f, score, _ = draw_gradients(on_cpu[0], w, s.item(), 20_000)
baselines = {"all draws": lambda f, score: (f - f.mean())[:, None] * score,
             "leave one out": leave_one_out}  # fmt: skip
share = {}
for name, estimate in baselines.items():
    each = group_means(estimate, f, score, 2)  # (pairs, k)
    along = each @ exact_gradient / exact_gradient.square().sum()  # 1 if exact
    share[name], error = mean_and_error(along)
    print(f"baseline from {name:14s} {share[name]:.2f} ± {error:.2f} of the exact gradient")
assert abs(share["all draws"] - 0.5) < 5 * error and abs(share["leave one out"] - 1) < 5 * error

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 12 A sharper bound
# **Question:** the ELBO is not the log likelihood. How far below is it? Importance sampling tells.
# With $K$ draws $z_s \sim q_\phi(z \mid x)$,
#
# $$ L_K = E\Big[\log \frac1K \sum_{s=1}^{K} w_s \Big], \qquad
# w_s = \frac{p_\theta(x \mid z_s)\, p(z_s)}{q_\phi(z_s \mid x)} . $$
#
# $L_1$ is the ELBO. Each weight has the mean $E_q[w_s] = p(x)$, so by Jensen's inequality $L_K \le
# \log E[\text{average}] = \log p(x)$. An average of more weights fluctuates less: *on average*
# every further draw raises the bound. If the weights are bounded, $L_K \to \log p(x)$ (Burda et al.
# 2016). Where $q$ is narrower than the posterior they need not be, and it can take very long.
#
# ### Exercise 11: write the importance-weighted bound (15 minutes)
# You have `vae.posterior`, `vae.decoder` and `log_bernoulli(x, logits)`, which takes logits
# `(draws, n, d)`, too. With 784 pixels, $\log p(x \mid z)$ can be −1,000: that must not break it.
# The check knows the limits: the ELBO for $K = 1$, and $\log p(x)$ of a small VAE for large $K$.


# %% tags=["exercise"]
def my_bound(vae, x, draws):  # images (n, d), K
    return ...  # replace this by your code: one estimate per image (n,), nats


checks.check_importance_bound(my_bound)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `q = dist.Normal(mu, sigma)` has `q.rsample((draws,))`, of shape `(draws, n, k)`, and
# `q.log_prob(z)`. Add up log densities to $\log w_s$, one number per draw and image.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\exp(-1000)$ is 0 for a computer. Section 9 took such sums in logarithms.
#
# </details>
# <details><summary>Hint 3</summary>
#
# It is a *mean* of $K$ weights. With one draw the result must be the logarithm of the one weight.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def importance_bound(vae, x, draws):
    """log mean weight over draws of q: (n, d) -> (n,), nats."""
    mu, sigma = vae.posterior(x)
    eps = torch.randn(draws, *mu.shape, device=x.device, dtype=x.dtype)
    z = mu + sigma * eps  # (draws, n, k)
    log_prior_over_q = 0.5 * (eps.square() - z.square()).sum(-1) + sigma.log().sum(-1)
    log_weight = log_bernoulli(x, vae.decoder(z)) + log_prior_over_q  # log 2 pi cancels
    return log_weight.logsumexp(0) - math.log(draws)


course_bound = importance_bound
assert checks.check_importance_bound(importance_bound)

# %% [markdown] slideshow={"slide_type": "subslide"}
# One trap is left, memory: 500 draws for 500 images are 250,000 decoded images. So take them in
# portions. **Predict first:** how far above the test ELBO is the bound with 500 draws?

# %%
importance_bound = my_bound if checks.check_importance_bound(my_bound) else course_bound


@torch.no_grad()
def bound(vae, x, draws, seed=0):
    """Importance-weighted bound of binary images, in portions: (n, d) -> (n,), nats."""
    x = as_pixels(x, binary=True).to(vae.decoder[-1].bias)
    portions = x.split(max(1, 4000 // draws))
    with torch.random.fork_rng([x.device] if x.is_cuda else []):  # other noise goes on as before
        torch.manual_seed(seed)
        shown = bar(portions, desc="images", disable=len(x) * draws < 1e5)
        return torch.cat([torch.as_tensor(importance_bound(vae, v, draws)) for v in shown])


predict("above the ELBO", "less than one nat", "a few nats", "tens of nats")


# %%
@torch.no_grad()
def elbo_of(vae, mu, sigma, x, draws=50):
    """ELBO of the decoder of a VAE with a given Gaussian q, in nats, (n,)."""
    z = (mu + sigma * torch.randn_like(mu) for _ in range(draws))
    distortion = sum(-log_bernoulli(x, vae.decoder(code)) for code in z) / draws
    return -(distortion + gaussian_kl(mu, sigma))


elbo, sharper = vae.elbo(x_test), x_test[:500]  # (n,), and digits that get more draws
elbo_50 = elbo_of(vae, *vae.posterior(sharper), sharper)  # (500,)
by_image = {draws: bound(vae, sharper, draws) for draws in (1, 5, 50, 500)}  # (500,)
rises = {draws: mean_and_error((values - elbo_50).cpu()) for draws, values in by_image.items()}
bounds = {draws: (elbo.mean() + rise).item() for draws, (rise, _) in rises.items()}

# %% alt="The mean gain of the bound over the ELBO against the number of draws, logarithmic: it is zero at one draw and rises ever more slowly to over four nats at 500; error bars are short." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots(figsize=(6, 3.5))
ax.errorbar(list(bounds), *zip(*rises.values(), strict=True), fmt="o-", capsize=4)
ax.axhline(0, linestyle="--", color=PALETTE["black"])
ax.text(40, 0.1, "ELBO")
ax.set(xscale="log", xlabel="draws $K$ (logarithmic)", ylabel="$L_K$ − ELBO (nats per image)")
for draws, (rise, error) in rises.items():
    print(f"K = {draws:3d}: {bounds[draws]:7.2f} nats, above the ELBO {rise:5.2f} ± {error:.2f}")

# %% tags=["answer", "mistake-V8"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "above the ELBO",
    "a few nats",
    f"With 500 draws the bound is {rises[500][0]:.1f} nats above, and it rises ever more slowly.",
)
assert 2 < rises[500][0] < 10, EXPECTED
assert abs(rises[1][0]) < 5 * rises[1][1]  # one draw is the ELBO
assert bounds[1] < bounds[5] < bounds[50] < bounds[500] < -floor

# %% [markdown] slideshow={"slide_type": "subslide"}
# Dots are means over 500 test digits, bars standard errors of the paired difference to their ELBO,
# the mean over 50 draws; the bound of all 2,000 is their ELBO plus this gain. Calling the ELBO "the
# likelihood" would sell the model below its worth. How much is still missing, 500 draws cannot
# tell. Side by side:


# %% tags=["mistake-D5"] jupyter={"source_hidden": true}
def shown_with_error(values):
    """Mean ± standard error over images, for a table."""
    mean, error = mean_and_error(values)
    return f"{mean:.1f} ± {error:.1f}"


frequencies = shown_with_error(dist.Bernoulli(frequency).log_prob(x_test).sum(-1))
sharper_error = (elbo.var().item() / len(elbo) + rises[500][1].item() ** 2) ** 0.5
flat_elbo_test = shown_with_error(flat_scores["test"])
rows = [
    ("pixel frequencies (exact)", "16,000", frequencies, frequencies, frequencies),
    ("this notebook, k = 2", "16,000", flat_elbo_test, "–", "–"),
    (f"this notebook, k = {LATENT}", "16,000", shown_with_error(elbo),
     f"{bounds[500]:.1f} ± {sharper_error:.1f}", "–"),
    ("VAE, k = 50 (Burda et al. 2016)", "60,000", "–", "–", "−86.8"),
    ("trained on $L_{50}$, k = 50 (same)", "60,000", "–", "–", "−84.8"),
]  # fmt: skip
head = (
    "| model | training digits | test ELBO | $K = 500$ | $K = 5{,}000$ |\n" + 5 * "| --- " + "|\n"
)
lines = ["| " + " | ".join(row).replace("-", "−") + " |" for row in rows]
display(Markdown(head + "\n".join(lines)))
print(f"noise of sampled binarisation: on average no model gets above {-floor:.1f} nats")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Nats per image, **sampled binarisation**; ours on 2,000 test digits, ± one standard error over
# digits, published on all 10,000. Bounds compare only if $K$ is the same. Longer fits of ours on
# 50,000 digits, one run each, scored on all 10,000 test digits (`benchmarks/all_of_mnist.py`):
#
# {{all of MNIST}}

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Where do the missing nats go?
# The gap of the ELBO is $\text{KL}(q_\phi(z \mid x) \| p_\theta(z \mid x))$. Part of it is the
# shape of $q$, a diagonal Gaussian, part is **amortisation**: one network for all images. To
# separate them, give 100 test digits a $z_\mu$ and $z_\sigma$ of their own, started at the
# encoder's answer and improved by gradient ascent. The decoder is not touched.

# %%
some = x_test[:100]
with torch.no_grad():
    start = vae.posterior(some)
own = fit_q(*start, lambda z: log_bernoulli(some, vae.decoder(z)), draws=4, steps=200, lr=0.02)


# %%
amortised = elbo_50[:100]
by_own, own_error = mean_and_error(elbo_of(vae, *own, some) - amortised)
total, total_error = mean_and_error(by_image[500][:100] - amortised)
print(f"gap at least {total:.2f} ± {total_error:.2f} nats, of which amortisation "
      f"{by_own:.2f} ± {own_error:.2f}")  # fmt: skip
assert total / 3 < by_own < total, EXPECTED

# %% [markdown]
# As far as 500 draws show it, a large part of the gap on new digits is amortisation: the encoder is
# a weak part, not only the *diagonal* Gaussian (Cremer et al. 2018). Remedies are a better encoder,
# or a few gradient steps when a single image matters.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 13 Which latents work?
# A latent whose $q(z_i \mid x)$ is the prior for every image is switched off: it costs no rate and
# tells the decoder nothing. Section 8 counted the active ones. **Predict first:** train small VAEs
# with 40 latents on digits of 14 × 14 pixels, for 200 steps and for 600. Which have more active
# latents?

# %%
predict("active", "those of 600 steps", "neither", "those of 200 steps")


# %% tags=["mistake-V15"]
def halve(x):
    """Grey digits (n, 784) at half the width and height, (n, 196)."""
    return F.avg_pool2d(x.view(-1, 1, 28, 28), 2).flatten(1)


shrunk, shrunk_val = halve(grey_train), binarise(halve(grey_val))
counted = {}
for seed, steps in itertools.product((SEED, SEED + 1), (200, 600)):
    fitted = fit_vae(shrunk, shrunk_val[:500], k=40, seed=seed, hidden=100, batch=100, steps=steps)
    counted[seed, steps] = active_units(fitted, shrunk_val)
    print(f"seed {seed}, {steps} steps: {counted[seed, steps]} of 40 active")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("active", "those of 200 steps", "It takes time to switch a latent off.")
assert all(counted[s, 600] < counted[s, 200] / 2 for s in (SEED, SEED + 1)), EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# In fits this short the number depends on how long one trains, and on the seed. The KL of each
# latent says more; their sum is the rate:

# %%
nats, active = kl_per_latent(vae, x_test).cpu(), active_units(vae, x_test)
print(f"{active} of {LATENT} are active; {(nats > 0.1).sum()} have a KL of more than 0.1 nats")
assert 10 <= active <= LATENT and (nats > 0.1).sum() <= active, EXPECTED

# %% alt="Left: the divergence of each latent in decreasing order; the first have about two nats, the last nothing. Right: the same quantity during training, one line for each latent; at the first look all have some; most keep one to two nats, the others fall to zero and stay there." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4))
axes[0].bar(range(1, LATENT + 1), nats.sort(descending=True).values)
axes[0].set(xlabel="latent, by rank", ylabel="KL to the prior (nats)", title="test, at the end")
steps_seen, kl_seen = zip(*rates_seen, strict=True)
axes[1].plot(steps_seen, torch.stack(kl_seen), color=PALETTE["blue"], alpha=0.5, linewidth=1)
_ = axes[1].set(xlabel="training step", ylabel="KL to the prior (nats)", title="during training")

# %% [markdown]
# Left: some latents carry the whole rate. Right, one line for each latent on validation digits: at
# first, while the warm-up keeps the rate cheap, all carry something; as its price climbs, some fall
# to zero and stay there.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 14 Why samples are worse than reconstructions
# A reconstruction decodes a $z$ of $q(z \mid x)$, a sample a $z$ of the prior. The decoder was
# trained on the first kind: on the aggregate posterior $\bar q(z)$ of section 6, the average of
# $q(z \mid x)$ over images. The rate holds the difference (Hoffman and Johnson 2016):
#
# $$ E_x\,\text{KL}\big(q(z \mid x)\,\|\,p(z)\big) = \underbrace{E_x\,\text{KL}\big(q(z \mid
# x)\,\|\,\bar q(z)\big)}_{\text{mutual information } I(x; z)} + \text{KL}\big(\bar q(z)\,\|\,
# p(z)\big). $$
#
# The first part buys information about $x$. The second is waste: the price of a prior that is not
# $\bar q$.
#
# ### How much is waste?
# For $N$ given digits, one of which gave $z$, $\bar q$ is at least $q(z \mid x) / N$: so their $I$
# cannot exceed $\log N$.


# %%
@torch.no_grad()
def log_aggregate(z, mu, sigma):
    """Log mean of the N Gaussians (N, k) at z (b, k): -> (b,), nats."""
    precision, constants = sigma**-2, (mu**2 / sigma**2 + 2 * sigma.log()).sum(-1)
    square = z.square() @ precision.T - 2 * z @ (mu * precision).T + constants  # (b, N)
    size = z.shape[-1] * math.log(2 * math.pi)
    return (-0.5 * (square + size)).logsumexp(-1) - math.log(len(mu))


with torch.no_grad():
    train_q = vae.posterior(binarise(grey_train))  # mean and standard deviation, both (n, k)
    test_q = vae.posterior(x_test)


# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
def split_rate(mu, sigma, others, rows=1000):
    """Log ratios q(z | x) / p(z) and q(z | x) / mean of the others, one draw per row: (rows,)."""
    q = dist.Normal(mu[:rows], sigma[:rows])
    z = q.sample()
    log_q, unit = q.log_prob(z).sum(-1), dist.Normal(torch.zeros_like(z), 1.0)
    mean_q = torch.cat([log_aggregate(part, *others) for part in z.split(250)])  # saves memory
    return log_q - unit.log_prob(z).sum(-1), log_q - mean_q


for name, pair in {"training": train_q, "test": test_q}.items():
    paid, log_ratio = split_rate(*pair, pair)
    ceiling = math.log(len(pair[0]))
    (price, price_error), (told, told_error) = mean_and_error(paid), mean_and_error(log_ratio)
    print(f"{name} digits: rate {price:.2f} ± {price_error:.2f}, I {told:.3f} ± {told_error:.3f} "
          f"(log N = {ceiling:.3f}), waste {price - told:.1f} nats")  # fmt: skip
    assert ceiling - 0.3 < told < ceiling + 1e-3, EXPECTED  # saturated
unseen = split_rate(*test_q, train_q)[1].mean().item()
print(f"test codes under the mean of the training digits: {unseen:.1f} nats, no bound by log N")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Both sit at their ceiling: nearly every code points to its own digit. So over *all* digits there
# could be, $I$ is about this or more, and the waste at most about what is printed. Any density
# $r(z)$ as prior costs $I + \text{KL}(\bar q \,\|\, r) \ge I$: what a learnt prior saves on new
# digits was waste. (The mean over training digits is a bad $r$: it remembers them; see the last
# line.)
#
# **Predict first:** keep encoder and decoder, learn the prior. By how much does the test ELBO rise?

# %%
predict("learnt prior", "less than half a nat", "two or three nats", "more than ten nats")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 12: learn a prior (20 minutes)
# Digit $i$ has $q(z \mid x_i) = N(\mu_i, \operatorname{diag} \sigma_i^2)$; `mu` and `sigma` are
# `(n, k)`. Fit a density to the codes that the decoder is given: a mixture of full-covariance Gaussians
# (`dist.MixtureSameFamily`) or, once you know the next notebook, a flow from `dist.transforms`.
# Return an object with `log_prob(z)`, `(b, k)` → `(b,)`, and `sample((s,))`, `(s, k)`. The check
# knows the density of its codes.


# %% tags=["exercise"]
def my_prior(mu, sigma):
    return ...  # replace this by your code


checks.check_learnt_prior(my_prior)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# What will the decoder be given: a mean of $q$, or a draw? Fit the density to the same.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `GaussianMixture(10).fit(...)` of scikit-learn has `weights_`, `means_` and `covariances_`. These
# are what `dist.Categorical` and `dist.MultivariateNormal` need, as 32-bit tensors.
#
# </details>
# <details><summary>Hint 3, for the flow</summary>
#
# *Fitting* needs a fast way from $z$ back to noise. `affine_autoregressive(k).inv` has it; without
# `.inv`, its fast way is the one for drawing.
#
# </details>

# %% [markdown] slideshow={"slide_type": "subslide"}
# The course's own versions are folded. *EM* (expectation maximisation) shares each code among thirty
# Gaussians and refits these, in turn, with codes drawn anew; the flow has two autoregressive layers.


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def mixture_prior(mu, sigma, components=30, rounds=25, inertia=20.0):
    """Mixture of full Gaussians for draws of N(mu, diag sigma²), (n, k), by EM with fresh draws."""
    eye, chosen = torch.eye(mu.shape[1]).to(mu), torch.randperm(len(mu))[:components]
    means, covariances = mu[chosen], (mu.T.cov() + eye).expand(len(chosen), -1, -1)
    weights = mu.new_full((len(chosen),), 1 / len(chosen))
    for _ in bar(range(rounds), desc="EM"):
        z = mu + sigma * torch.randn_like(mu)
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariances))  # (c, k, k)
        shares = [
            -0.5 * ((z - mean) @ root.T).square().sum(-1) + root.diagonal().log().sum()
            for mean, root in zip(means, inverse, strict=True)
        ]
        shares = (torch.stack(shares) + weights.log()[:, None]).softmax(0)  # (c, n)
        counts = shares.sum(1)
        weights, means = (counts + 1) / (counts + 1).sum(), shares @ z / (counts + 1e-3)[:, None]
        scatter = [(z - m).T @ ((z - m) * s[:, None]) for m, s in zip(means, shares, strict=True)]
        covariances = torch.stack(scatter) + inertia * eye  # as if more codes had variance 1
        covariances /= (counts + inertia)[:, None, None]
    normal = dist.MultivariateNormal(means, covariances)
    return dist.MixtureSameFamily(dist.Categorical(weights), normal)


course_prior = mixture_prior
assert checks.check_learnt_prior(mixture_prior)


# %% jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
def flow_prior(mu, sigma, steps=500, batch=400, lr=5e-3):
    """Masked autoregressive flow for draws of N(mu, diag sigma²), (n, k)."""
    k = mu.shape[1]
    layers = [dist.transforms.affine_autoregressive(k, [256]).to(mu.device) for _ in range(2)]
    turn = dist.transforms.Permute(torch.arange(k - 1, -1, -1, device=mu.device))
    base = dist.Normal(mu.new_zeros(k), 1.0).to_event(1)
    flow = dist.TransformedDistribution(base, [layers[0].inv, turn, layers[1].inv])
    optimiser = torch.optim.Adam(nn.ModuleList(layers).parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps)
    for _ in bar(range(steps), desc="flow"):
        rows = torch.randint(len(mu), (batch,), device=mu.device)
        z = mu[rows] + sigma[rows] * torch.randn_like(mu[rows])
        loss = -flow.log_prob(z).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    nn.ModuleList(layers).requires_grad_(False)
    return flow


# %% [markdown] slideshow={"slide_type": "subslide"}
# Prior, encoder and decoder can also go on *together*. The rate then has no closed form: it is
# $\log q(z \mid x) - \log p(z)$ at the draw.


# %% slideshow={"slide_type": "subslide"}
def mixture(logits, means, roots):
    """Mixture of Gaussians with covariances L Lᵀ; L the lower triangle of a root (c, k, k)."""
    size = roots.diagonal(dim1=-2, dim2=-1).abs().diag_embed()
    normal = dist.MultivariateNormal(means, scale_tril=roots.tril(-1) + size)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), normal)


# %% slideshow={"slide_type": "subslide"}
def train_together(vae, prior, grey, *, steps=360, batch=200, lr=2e-3, prior_lr=5e-3):
    """Copies of a ScoredVae and of a mixture as prior, after steps on their common ELBO."""
    vae, parts = copy.deepcopy(vae), prior.component_distribution
    logits, means, roots = (
        value.detach().clone().requires_grad_()
        for value in (prior.mixture_distribution.logits, parts.loc, parts.scale_tril)
    )
    groups = [(list(vae.parameters()), lr), ([logits, means, roots], prior_lr)]
    optimiser = torch.optim.Adam([{"params": p, "lr": rate} for p, rate in groups], fused=True)
    rates = [rate for _, rate in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps)
    for x in map(binarise, bar(batches(grey, batch, steps), total=steps, desc="together")):
        q = dist.Normal(*vae.posterior(x))
        z = q.rsample()
        rate = q.log_prob(z).sum(-1) - mixture(logits, means, roots).log_prob(z)
        loss = (rate - log_bernoulli(x, vae.decoder(z))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return vae, mixture(logits.detach(), means.detach(), roots.detach())


# %%
unit = dist.Normal(torch.zeros(LATENT, device=device), 1.0).to_event(1)
priors = {"N(0, I)": unit, "mixture": mixture_prior(*train_q), "flow": flow_prior(*train_q)}
if checks.check_learnt_prior(my_prior):
    priors["yours"] = my_prior(*train_q)

# %% slideshow={"slide_type": "subslide"}
later_vae, later_prior = train_together(vae, priors["mixture"], grey_train)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The same draws and decodings serve all priors of a decoder, so differences are paired.


# %%
@torch.no_grad()
def prior_scores(vae, priors, x, draws):
    """ELBO and bound with so many draws for each prior: (n, d) -> name: (2, n), nats."""
    found = {name: [] for name in priors}
    for rows in x.split(max(1, 2_000 // draws)):  # few at a time: saves memory
        q = dist.Normal(*vae.posterior(rows))
        z = q.sample((draws,))  # (draws, b, k)
        rest = log_bernoulli(rows, vae.decoder(z)) - q.log_prob(z).sum(-1)
        for name, prior in priors.items():
            log_p = torch.as_tensor(prior.log_prob(z.flatten(0, 1))).to(rest)
            w = rest + log_p.view_as(rest)
            found[name].append(torch.stack([w.mean(0), w.logsumexp(0) - math.log(draws)]))
    return {name: torch.cat(parts, 1).cpu() for name, parts in found.items()}


both = [(vae, priors), (later_vae, {"mixture, trained together": later_prior})]
elbos, tight = {}, {}
for network, learnt in both:
    elbos |= {name: v[0] for name, v in prior_scores(network, learnt, x_test, 8).items()}
    tight |= {name: v[1] for name, v in prior_scores(network, learnt, x_test[:100], 500).items()}

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
lines = []
for name in elbos:
    cells = []
    for scores in (elbos, tight):
        ahead = mean_and_error(scores[name] - scores["N(0, I)"])
        cells += [shown_with_error(scores[name]), "{:+.2f} ± {:.2f}".format(*ahead)]
    lines.append(" | ".join(["", name, *cells, ""]).replace("-", "−"))
head = ["prior", "test ELBO (nats)", "gain", "K = 500 bound (nats)", "gain"]
display(Markdown("\n".join([" | ".join(["", *head, ""]), "|" + " --- |" * 5, *lines])))
gains = {name: (scores - elbos["N(0, I)"]).mean().item() for name, scores in elbos.items()}
assert gains["mixture"] > 1.2 and gains["flow"] > 0.8, EXPECTED
assert gains["mixture, trained together"] > gains["mixture"] + 0.3, EXPECTED
assert elbos["mixture, trained together"].mean() > -96.8, EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "learnt prior",
    "two or three nats",
    "Far less than the waste printed above: over all digits that is an upper limit, set by log N.",
)
assert 1.5 < gains["mixture"] < 3.5, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# ELBO: all test digits; bound: the first 100. ± is over digits, gains are against $N(0, I)$ on the
# same digits. The last row has also trained longer. Below: all test digits, ± over five seeds, and a
# control with as many steps more but no learnt prior (`benchmarks/learnt_priors.py`):
#
# {{learnt priors}}

# %% tags=["picture-priors"] alt="Five squares of 64 drawn digits. Those from N(0, I) have many blends and broken strokes; the flow has about as many, the two mixtures have fewer; those decoded from codes of training digits are nearly all clear." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
seed_everything(SEED)
panels = {f"z from {name}": (vae, prior.sample((64,))) for name, prior in priors.items()}
panels["mixture, trained together"] = later_vae, later_prior.sample((64,))
panels["z from the aggregate posterior"] = vae, dist.Normal(*train_q).sample()[:64]
fig, axes = plt.subplots(2, 3, figsize=(9.5, 6.6))
for ax in axes.flat[len(panels) :]:
    ax.axis("off")
for ax, (name, (network, z)) in zip(axes.flat, panels.items(), strict=False):
    with torch.no_grad():
        z = torch.as_tensor(z).to(x_test)
        plot_images(network.decoder(z).sigmoid(), rows=8, ax=ax).set_title(name)

# %% [markdown]
# All are pixel means. Draws from the aggregate posterior *are* reconstructions. With the same
# decoder the mixture comes closer to them; the flow, by eye, hardly does, although it gained nats.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 15 Half a digit
# The lower half of a digit is hidden. What was there? Given $z$, pixels are independent: the hidden
# simply drop out of the likelihood, and Bayes' rule gives $p(z \mid x_\text{seen})$. Only, the
# encoder never saw half a digit: its $q$ is a bad place to draw from. Importance weights repair
# that, if enough draws hit. The **effective sample size** $(\sum_s w_s)^2 / \sum_s w_s^2$ says how
# many equal draws the weighted ones are worth.
#
# ### Exercise 13: complete the digit (25 minutes)
# For one image `x` `(d,)` and a mask `seen` `(d,)`, true where a pixel is seen, return `draws`
# equally weighted $z$ from $p(z \mid x_\text{seen})$, `(draws, k)`, and the effective sample size
# behind them. Start from the encoder; a few gradient steps for this image improve the proposal. The
# check knows the exact posterior.


# %% tags=["exercise"]
def my_completions(vae, x, seen, draws):
    return ...  # replace this by your code


checks.check_completions(my_completions)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `vae.decoder(z)[:, seen]` has the logits of the seen pixels. Which density belongs to each of
# them, which to $z$, and which was $z$ drawn from?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Draw many more than `draws`, and choose among them: `dist.Categorical(logits=log_weight)` takes
# weights that need not sum to one.
#
# </details>
# <details><summary>Hint 3</summary>
#
# $q$ is too narrow? A wider one costs draws, a narrow one misses places. Several Gaussians, each
# improved on its own, are *one* proposal: their mixture.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def completions(vae, x, seen, draws, starts=8, steps=100, tries=2000):
    """Draws of p(z | seen pixels), (draws, k), and their effective sample size; x, seen (d,)."""

    def log_pixels(z):
        return log_bernoulli(x[seen], vae.decoder(z)[..., seen])

    with torch.no_grad():
        mu, sigma = vae.posterior((x * seen).expand(starts, -1))  # (starts, k)
    mu = mu + torch.randn_like(mu)
    mu, sigma = fit_q(mu, sigma, log_pixels, draws=2, steps=steps, lr=0.1)
    with torch.no_grad():
        normal = dist.Normal(mu, 1.2 * sigma).to_event(1)
        q = dist.MixtureSameFamily(dist.Categorical(torch.ones(starts).to(mu)), normal)
        z = q.sample((tries,))
        log_prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        weight = (log_pixels(z) + log_prior - q.log_prob(z)).softmax(0)
        return z[weight.multinomial(draws, replacement=True)], (1 / weight.square().sum()).item()


course_completions = completions
assert checks.check_completions(completions)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Of 200 test digits take four whose fifty nearest training digits, *by upper half*, agree least on
# a kind, and four that agree most. Each gets sixty completions, each of these the kind of its
# nearest training digit. (Labels only choose what to show.)

# %%
passed = checks.check_completions(my_completions)
completions = my_completions if passed else course_completions
upper = torch.arange(d, device=device) < d // 2


def distances(a, b):
    """Squared distances of rows, up to a number for each row of a: (n, d), (m, d) -> (n, m)."""
    return torch.addmm(b.norm(dim=1).square(), a, b.T, alpha=-2)  # copies neither a nor b


def agreement(kinds):
    """Share of the commonest kind, along the last axis: (n, m) -> (n,)."""
    return F.one_hot(kinds, 10).float().mean(-2).amax(-1)


by_half = distances(x_test[:200, : d // 2], grey_train[:, : d // 2]).topk(50, largest=False)
order = agreement(digits.y_train[by_half.indices.cpu()]).argsort()
eight = x_test[torch.cat([order[:4], order[-4:]]).to(device)]
found = [completions(vae, x, upper, 60) for x in bar(eight, desc="digits")]

# %%
with torch.no_grad():
    lower = torch.stack([vae.decoder(torch.as_tensor(z).to(x_test)).sigmoid() for z, _ in found])
completed = torch.where(upper, eight[:, None], lower)  # (8, 60, d)
nearest_rows = distances(completed.flatten(0, 1), grey_train).argmin(-1).cpu()
kinds = digits.y_train[nearest_rows].view(8, -1)
sizes, agree = [float(size) for _, size in found], agreement(kinds).tolist()
certain = max(range(8), key=lambda i: (agree[i], sizes[i]))
open_digit = min(range(8), key=lambda i: (sizes[i] < 10, agree[i]))  # a size of ten, if possible
assert agree[open_digit] < 0.85 and agree[certain] > 0.95, EXPECTED

# %% jupyter={"source_hidden": true}
with torch.no_grad():  # the encoder alone, for comparison
    q = dist.Normal(*vae.posterior(eight * upper))  # hidden pixels white, as it knows no others
    z = q.sample((2000,))  # (2000, 8, k)
    pixels = [
        log_bernoulli(eight[:, upper], vae.decoder(part)[..., upper]) for part in z.split(500)
    ]
    log_weight = torch.cat(pixels)
    log_weight += (dist.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)
    weight = log_weight.softmax(0)
encoder_sizes = (1 / weight.square().sum(0)).tolist()
for name, values in {"encoder's q": encoder_sizes, "improved": sizes}.items():
    print(f"effective sample size, {name}: {min(values):.0f} to {max(values):.0f}, "
          f"median {torch.tensor(values).median():.0f}")  # fmt: skip
if completions is course_completions:
    assert sum(sizes) > 1.5 * sum(encoder_sizes), EXPECTED

# %% tags=["picture-half"] alt="Two rows of images. In each: the upper half of a digit over a grey block, ten completions, and the whole digit. The completions of the upper row are all of one kind, those of the lower row of several." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(2, 1, figsize=(8.5, 2.4))
for ax, row in zip(axes, (certain, open_digit), strict=True):
    half = torch.where(upper, eight[row], 0.3)  # grey: hidden
    plot_images(torch.cat([half[None], completed[row, :10], eight[row][None]]), rows=1, ax=ax)
    counts = ", ".join(f"{sum(kinds[row] == kind)} × {kind}" for kind in kinds[row].unique())
    ax.set_title(f"nearest: {counts}; effective sample size {sizes[row]:.0f}", loc="left")

# %% [markdown]
# From left to right: what is seen, ten of the sixty completions (pixel means), the truth. By
# our choice: of eight, the one whose completions agree most, and, among effective sizes of at least
# ten (if any), the one whose completions agree least. Of two thousand draws only so many count. Equal images in a row are one draw, taken often; kinds may be
# missing. Even a large size is no guarantee: what no draw met, does not show.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 16 Honest uncertainty
# Does the encoder's $z_\sigma$ know that an image is damaged? Flip one pixel in ten, or erase the
# lower half: to white, nothing is marked as hidden. With $k = 2$ the posterior is known:
# $p(z \mid x) \propto p(x \mid z)\, p(z)$ on a grid. In between stands a Gaussian optimised for
# each image (own $q$). **Predict first:** what does flipping pixels do to the width of the *exact*
# posterior?

# %%
predict("damage", "it more than doubles", "it widens by half or more", "it widens less, or shrinks")

# %%
clean = x_test[:100]
flips = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0)).to(device) < 0.1
damaged = {"clean": clean, "10 % flipped": torch.where(flips, 1 - clean, clean)}
damaged["lower half erased"] = clean * (torch.arange(d, device=device) < d // 2)
images = torch.cat([*damaged.values()])  # (300, d)
with torch.no_grad():
    amortised_mu, amortised_sigma = flat.posterior(images)


# %%
@torch.no_grad()
def exact_sigma(vae, x, reach=6.0, points=201):
    """Posterior standard deviations of a two-dimensional VAE by quadrature: (n, d) -> (n, 2).

    A grid twice as fine moves medians by 0.1 % and mean logarithms by 0.01.
    """
    axis = torch.linspace(-reach, reach, points, device=x.device)
    z = torch.cartesian_prod(axis, axis)  # (g, 2)
    log_joint = []
    for part in z.split(5000):
        logits = vae.decoder(part)  # log p(x | z) = x · logits - sum of softplus
        log_joint.append(logits @ x.T - F.softplus(logits).sum(-1, keepdim=True))
    weight = (torch.cat(log_joint) - 0.5 * z.square().sum(-1, keepdim=True)).softmax(0)  # (g, n)
    mean = weight.T @ z  # (n, 2)
    return (weight.T @ z.square() - mean.square()).clamp(min=0).sqrt()


exact = torch.cat([exact_sigma(flat, part) for part in images.split(100)])  # saves memory

# %% jupyter={"source_hidden": true}
_, own_sigma = fit_q(
    amortised_mu, amortised_sigma, lambda z: log_bernoulli(images, flat.decoder(z)),
    draws=2, steps=100, lr=0.05,
)  # fmt: skip

# %% tags=["mistake-V14"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
columns = {"encoder": amortised_sigma, "own q": own_sigma, "exact": exact}
reacts = {}  # by which factor the width of an image grows, for each damage
for name, widths in columns.items():
    medians, by_image = widths.view(3, -1).median(1).values, widths.log().view(3, -1, 2).mean(-1)
    change, change_error = mean_and_error((by_image[1:] - by_image[0]).T)  # paired, of the log
    reacts[name] = change.exp().tolist()
    print(f"{name:8s} {medians[0]:.3f} clean", *(
        f"{median:.3f} {damage}: × {factor:.2f} ± {factor * error:.2f}" for median, damage, factor, error
        in zip(medians[1:], [*damaged][1:], reacts[name], change_error, strict=True)
    ), sep="; ")  # fmt: skip
assert 0.4 < reacts["exact"][0] < 1.4 and reacts["exact"][1] > 1.2, EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "damage",
    "it widens less, or shrinks",
    "To the likelihood, a flip is evidence like any other pixel: the model knows no wrong ones.",
)
assert reacts["encoder"][0] > 1.05, EXPECTED

# %% [markdown]
# Widths are medians over images and both latents; × is the geometric mean of the factor, image by
# image. In five other fits flips gave the exact posterior 0.5 to 1.3: not even the sign is fixed.
# The encoder gave 1.1 to 1.6, whatever the exact posterior did. So its $z_\sigma$ is
# no reliable measure of damage or posterior: it learnt from undamaged images. And even
# the exact posterior is honest only about $z$, *if* the model is true.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 17 The dial β
# Give the rate a weight: loss $= \text{distortion} + \beta \cdot \text{rate}$. With a small $\beta$
# codes may cost more, and reconstructions get better. With a large one codes get cheaper (Higgins
# et al. 2017; Alemi et al. 2018). To keep it short, networks are smaller, have ten latents, and
# are trained briefly on 4,000 digits of 14 × 14 pixels; five seeds each. **Predict first:** which β
# has the best ELBO on *test* digits?

# %%
predict("dial", "the one below 1", "1", "the one above 1")

# %%
quick = {"k": 10, "hidden": 100, "batch": 100, "steps": DIAL_STEPS, "lr": 1e-2}
dial_train, dial_test = shrunk[:DIAL_DIGITS], binarise(halve(grey_test))
dial_sets = {"training": binarise(dial_train), "test": dial_test}
parts = torch.zeros(DIAL_SEEDS, len(DIAL), 2, 2)  # (seed, β, set, distortion and rate)
working = torch.zeros(DIAL_SEEDS, len(DIAL))  # number of active latents
for seed, (place, beta) in itertools.product(range(DIAL_SEEDS), enumerate(DIAL)):
    fitted = fit_vae(dial_train, shrunk_val[:500], beta=beta, seed=SEED + seed, **quick)
    for which, x in enumerate(dial_sets.values()):
        parts[seed, place, which] = torch.stack(fitted.terms(x)).mean(1).cpu()
    working[seed, place] = active_units(fitted, dial_test)

# %% alt="Left: distortion falls as the rate grows, along a bent curve from the largest β at the upper left to the smallest at the lower right, across parallel falling lines of equal ELBO; the middle, β = 1, comes closest to the lower left. Right: the ELBO of training and test digits against β; both are highest at β = 1." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(10, 4))
distortions, rates = parts[:, :, 1].unbind(-1)  # test digits
axes[0].plot(rates.T, distortions.T, "o-", color=PALETTE["blue"], alpha=0.6)
axes[0].set(xlim=(0, 1.4 * rates.max()), ylim=(0.9 * distortions.min(), 1.1 * distortions.max()))
for total in range(0, 300, 10):
    axes[0].axline((0, total), slope=-1, color=PALETTE["grey"], linewidth=0.8, zorder=0)
for beta, r, v, w in zip(DIAL, rates.amax(0), distortions.amax(0), working.mean(0), strict=True):
    label = f"β = {beta:g}\n{w:.1f} active"
    axes[0].annotate(label, (r, v), (7, 3), textcoords="offset points", fontsize=10)
axes[0].set(xlabel="rate (nats)", ylabel="distortion (nats)")
axes[0].set_title("test digits; grey: equal ELBO, 10 nats apart")
dial_elbo = -parts.sum(-1)  # (seed, β, set)
centre, error = mean_and_error(dial_elbo)
for which, name in enumerate(dial_sets):
    axes[1].errorbar(DIAL, centre[:, which], error[:, which], fmt="o-", capsize=3, label=name)
axes[1].set(xscale="log", xlabel="β", ylabel="ELBO (nats per image)")
axes[1].set_xticks(DIAL, [f"{beta:g}" for beta in DIAL])
axes[1].minorticks_off()
_ = axes[1].legend()

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
middle = DIAL.index(1)
for place, beta in enumerate(DIAL):
    if place != middle:
        lost, lost_error = mean_and_error(dial_elbo[:, middle] - dial_elbo[:, place])
        print(f"β = {beta:g} loses", *(f"{lost[i]:.1f} ± {lost_error[i]:.1f} nats ({name})"
              for i, name in enumerate(dial_sets)))  # fmt: skip
steps_up = parts.mean(0)[:, 1].diff(dim=0)  # from one β to the next, test digits
slopes = (-steps_up[:, 0] / steps_up[:, 1]).tolist()
print("nats of distortion that one nat of rate buys:", [round(slope, 2) for slope in slopes])
assert (steps_up[:, 0] > 0).all() and (steps_up[:, 1] < 0).all(), EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "dial",
    "1",
    "The loss at β = 1 is minus the ELBO of the *training* digits. That test digits agree is "
    "measured here, seed by seed; nothing guarantees it.",
)
assert (dial_elbo.argmax(1) == middle).all(), EXPECTED  # each seed, both sets
assert all(a < slope < b for slope, (a, b) in zip(slopes, itertools.pairwise(DIAL), strict=True)), (
    EXPECTED
)

# %% [markdown]
# Left: one thin curve per seed; *active*: as in section 8. At the lower right codes are long; at
# the upper left they are short, and the decoder has to guess. Right: bars are standard errors over
# seeds.
#
# β decides where the model stops: where one more nat of rate saves just β nats of distortion. The
# printed exchange rates lie between the two neighbouring values of β. Along a grey line nat is
# exchanged for nat, so the best ELBO is where the curve only touches such a line, at β = 1.
#
# Do not conclude that β = 1 gives the prettiest pictures. β is raised to get latents that mean
# something to people, and lowered to get sharp reconstructions. Only, with β < 1 minus the loss is
# no bound any more, and with β > 1 a looser one. The far end of the dial,
# where all latents are off, is section 8.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 18 Partially labelled
# **Question:** 16,000 images, but only 100 labels. Do the other images help? Train the same linear
# classifier on ten labelled digits of each kind, with three kinds of input: the pixels, the
# posterior means, and the encoder's last hidden layer, from which they are computed. Controls: the
# hidden layer of an encoder that was never trained, the label of the nearest of the hundred, by
# pixels, and a kernel machine (Gaussian), which is not linear. **Predict first:**
# which of the three inputs wins?

# %%
predict("labels", "the pixels", "the posterior means", "the hidden layer")

# %%
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

seed_everything(SEED)
untrained = ScoredVae(d, LATENT).to(device)
layers = {"pixels": nn.Identity(), "posterior means": lambda x: vae.posterior(x)[0]}
layers |= {"hidden layer, untrained": untrained.encoder[:-1], "hidden layer": vae.encoder[:-1]}
pool, inputs = grey_train[:4000], {}  # labels are asked for among these
for name, layer in layers.items():
    with torch.no_grad():
        train, test = layer(pool).cpu(), layer(grey_test).cpu()
    average = train.mean(0)  # a penalty depends on the scale: make the mean squared length 1
    length = (train - average).square().sum(-1).mean().sqrt()
    inputs[name] = (train - average) / length, (test - average) / length
rivals = [("pixels, nearest", "pixels", KNeighborsClassifier(1))]
rivals += [(f"{name}, kernel", name, SVC(C=10)) for name in ("pixels", "posterior means")]
linear_from = len(rivals)
rivals += [(name, name, LogisticRegression(C=10, max_iter=2000)) for name in inputs]

# %%
accuracy = torch.zeros(len(rivals), LABEL_SEEDS)  # (row, choice of labels)
for seed in range(LABEL_SEEDS):
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(1000 * SEED + seed))
    kinds = digits.y_train[order]
    chosen = torch.cat([order[kinds == digit][: LABELS // 10] for digit in range(10)])
    for row, (_, kind, classifier) in enumerate(rivals):
        train, test = inputs[kind]
        classifier.fit(train[chosen].numpy(), digits.y_train[chosen].numpy())
        accuracy[row, seed] = classifier.score(test.numpy(), digits.y_test.numpy())

# %% alt="Seven rows, one dot per choice of labels, the dots of one choice joined. Of the linear rows the trained hidden layer lies furthest right. The kernel machines, on pixels and on posterior means, lie further right on average; posterior means, untrained layer and nearest neighbour lie on the left, close together." jupyter={"source_hidden": true}
names = [name for name, _, _ in rivals]
points = 100 * (accuracy - accuracy[names.index("pixels")])  # percentage points
ahead, ahead_error = mean_and_error(points.T)
fig, ax = plt.subplots(figsize=(7, 4))
ax.plot(100 * accuracy, range(len(names)), "o-", color=PALETTE["grey"], linewidth=0.8)
ax.plot(100 * accuracy.mean(1), range(len(names)), "D", color=PALETTE["blue"])
labels = [
    f"{a}\n{b:+.1f} ± {c:.1f}".replace("-", "−")
    for a, b, c in zip(names, ahead, ahead_error, strict=True)
]
labels[names.index("pixels")] = "pixels"
ax.set_yticks(range(len(names)), labels, fontsize=9)
ax.set(xlabel="test digits right (%)", ylim=(-0.5, len(names) - 0.5))
_ = ax.set_title(f"one line per choice of {LABELS} labels; points against pixels ± standard error")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
lead = dict(zip(names, ahead.tolist(), strict=True))
answer(
    "labels",
    "the hidden layer",
    f"It gains {lead['hidden layer']:.1f} percentage points on the pixels; untrained it loses "
    f"{-lead['hidden layer, untrained']:.1f}: it is learning that helps. "
    f"The posterior means lose {-lead['posterior means']:.1f}.",
)
straight = accuracy[linear_from:]
further, error = mean_and_error((straight[-1] - straight[:-1]).T)  # choice by choice
assert (further > 2 * error).all() and accuracy.min() > 0.5, EXPECTED
assert max(lead["hidden layer, untrained"], lead["posterior means"]) < 0, EXPECTED
assert min(lead["pixels, kernel"], lead["posterior means, kernel"]) > lead["hidden layer"], EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The kind of digit is in the posterior means, too, but not along straight lines: the kernel finds it,
# and nearly as well in the pixels, without any unlabelled image: the gain is shown for linear
# classifiers only. The choice of labels moves a result by several points; so differences are taken
# choice by choice. The ± covers only that: all share one VAE. Semi-supervised VAEs put the label
# into the model, as a latent that is sometimes observed (Kingma et al. 2014).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 19 A warning
# A model of $p(x)$ seems a perfect alarm: what is unlikely is strange. A small VAE that never saw a
# one meets four strangers: digits **inverted**, **shuffled** (pixels), **lower half
# erased**, and **ones**. Its score is the chance that it rings louder for a stranger than for
# a digit (*area under the ROC curve*); ½ is a coin. **Predict first:** for which stranger does
# minus the ELBO do worst?

# %%
predict("alarm", "inverted", "shuffled", "lower half erased", "ones")

# %% [markdown]
# ### Exercise 14: choose your alarm (10 minutes)
# Decide before you see a result: from images `x` `(n, d)`, of any `d` (the check has 8 pixels, and
# strangers of low rate), return
# `(n,)`, higher for the stranger. Use only `vae` and `x`; `vae.terms(x)` gives distortion and rate.


# %% tags=["exercise"]
def my_alarm(vae, x):
    return ...  # replace this by your code


checks.check_alarm(my_alarm)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# An image without strokes has few ways to be wrong. Per *what* should its nats be counted?
#
# </details>
# <details><summary>Hint 2</summary>
#
# A blank image must not divide by zero: `clamp`.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_alarm(vae, x):
    distortion, _ = vae.terms(x)
    return distortion / x.sum(-1).clamp(1)  # nats per black pixel


assert checks.check_alarm(course_alarm)

# %%
others = grey_train[(digits.y_train != 1).to(device)][:ALARM_DIGITS]
x_others = x_val[(digits.y_val != 1).to(device)]  # the weights are chosen without ones, too
without_ones = fit_vae(others, x_others, seed=SEED, **quick)
with_ones = fit_vae(grey_train[:ALARM_DIGITS], x_val, seed=SEED, **quick)  # the control
is_one = (digits.y_test == 1).to(device)
usual = x_test[~is_one]
erased = torch.cat([usual[:, : d // 2], torch.zeros_like(usual[:, d // 2 :])], 1)
shuffle = torch.randperm(d, generator=torch.Generator().manual_seed(0)).to(device)
bold = F.max_pool2d(usual.view(-1, 1, 28, 28), 3, 1, 1).flatten(1)  # black grows by a pixel
strangers = {"inverted": 1 - usual, "shuffled": usual[:, shuffle], "lower half erased": erased}
strangers |= {"ones": x_test[is_one], "bold (not announced)": bold}


# %% slideshow={"slide_type": "subslide"}
def roc_area(strange, usual):
    """Probability that a stranger's alarm is higher than a digit's, ties half, and its error."""
    wins = (strange[:, None] - usual).sign_().add_(1).div_(2)  # in place: saves memory
    error = (wins.mean(1).var() / len(strange) + wins.mean(0).var() / len(usual)).sqrt()
    return wins.mean().item(), error.item()


own = bool(checks.check_alarm(my_alarm))
alarms = {
    "minus ELBO": lambda x: -without_ones.elbo(x),
    "yours" if own else "the course's": lambda x: torch.as_tensor(
        (my_alarm if own else course_alarm)(without_ones, x)
    ),
    "ELBO with ones − without": lambda x: with_ones.elbo(x) - without_ones.elbo(x),
}
areas, area_errors = {}, {}
for name, alarm in alarms.items():
    both = [roc_area(alarm(x), alarm(usual)) for x in strangers.values()]
    areas[name], area_errors[name] = zip(*both, strict=True)

# %% alt="Area under the ROC curve of three alarms in five rows. Minus the ELBO is perfect for inverted and shuffled, somewhat below a half for lower half erased, far below for ones; the course's alarm is near one for erased, about 0.7 for ones, below a half for bold; the difference of two ELBOs is nearly perfect for ones, below a half for the others." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots(figsize=(7.5, 3.6))
ax.axvline(0.5, linestyle="--", color=PALETTE["black"])
for mark, (name, values) in zip("osD", areas.items(), strict=True):
    places = [place + 0.26 * "osD".index(mark) - 0.26 for place in range(len(values))]
    ax.errorbar(values, places, xerr=area_errors[name], fmt=mark, markersize=6, label=name)
ax.set_yticks(range(len(strangers)), list(strangers))
ax.set(xlabel="area under the ROC curve (½: a coin)", xlim=(-0.03, 1.03))
ax.invert_yaxis()
_ = ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)

# %% jupyter={"source_hidden": true}
never, knew = (m.elbo(strangers["ones"]).mean().item() for m in (without_ones, with_ones))
known = without_ones.elbo(usual).mean().item()
text = (
    f"ones: {never:.1f} nats, and {knew:.1f} where ones were trained on; other digits {known:.1f}"
)
print(text.replace("-", "−"))

# %% tags=["answer", "mistake-V11"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
ones_at = list(strangers).index("ones")
area_ones = areas["minus ELBO"][ones_at]
answer(
    "alarm",
    "ones",
    f"An area of {area_ones:.2f} ± {area_errors['minus ELBO'][ones_at]:.2f}: far worse than a coin. "
    f"The model is surprised, by {knew - never:.0f} nats beside the control. But a one is so cheap "
    "that it stays below the other digits.",
)
assert min(areas["minus ELBO"][:2]) > 0.95 and area_ones < 0.3, EXPECTED
assert min(areas["minus ELBO"]) == area_ones, EXPECTED
assert areas["ELBO with ones − without"][ones_at] > 0.9 and knew - never > 15, EXPECTED

# %% [markdown]
# Likelihood rewards what is *simple*, and simple is not usual. The difference of two ELBOs finds
# ones, but had to know them. The course's alarm is nearly perfect on three of four, not on
# ones; its form
# was chosen with these strangers known, and it fails on a fifth. **No alarm without a test on the
# strangers you fear** (Nalisnick et al. 2019). Bars (one VAE): standard errors over images.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 20 What you saw

# %% jupyter={"source_hidden": true}
dearer = dial_elbo[:, middle, 1].mean() - dial_elbo[:, -1, 1].mean()
cheaper = (elbos["mixture"] - elbos["N(0, I)"]).mean()
together = elbos["mixture, trained together"]
summary = f"""
* Nobody labelled a digit; two latents reached a test ELBO of {flat_elbo:.1f} nats per image,
  {LATENT}, with wider networks and a longer training, {elbo.mean():.1f}. Pixel frequencies alone:
  {constant:.0f}; on average no model gets above {-floor:.1f}.
* The ELBO of a linear VAE came within {best - reached:.2g} nats of the exact optimum.
* For one digit and two latents of the linear VAE, one reparametrised draw was worth {ratio_many:.1f}
  of the score function with a baseline from 19 other draws, {ratio_pair:.1f} with one from one other.
* The bound with 500 draws: {bounds[500]:.1f} nats, so the ELBO understates the model.
* A prior learnt on the codes raised the test ELBO by {cheaper:.1f} nats, without touching the
  decoder; trained together with it, to {together.mean():.1f}.
* β = {DIAL[-1]:g} costs {dearer:.0f} nats of test ELBO; a mean over pixels, β = {d} in disguise,
  switches all latents off.
* With {LABELS} labels the trained hidden layer beat pixels by {lead["hidden layer"]:.1f}
  percentage points, for a linear classifier; the posterior means: {lead["posterior means"]:+.1f}.
* A model that never saw a one finds a one stranger than another digit in {area_ones:.0%} of pairs.
"""
display(Markdown(summary.replace("-", "−")))

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### From here to diffusion
# Put latents behind latents: draw $z_T \sim N(0, I)$, then $z_{T-1}$ given $z_T$, down to
# $z_0 = x$. The encoder climbs the other way. The bound stays; its rate becomes a sum of
# divergences, one per level.
#
# In a **diffusion model** the encoder is *fixed*: each level shrinks the one below a little and
# adds Gaussian noise, until $z_T$ is noise alone. Latents are as wide as the image and cannot
# collapse. At the top aggregate posterior and prior nearly agree by construction; section 14 had to
# learn a prior. As $q(z_t \mid x)$ is a known Gaussian, a training step needs one random level
# only. A network learns to undo a level, that is, to guess its noise: each divergence becomes a
# weighted squared error (Ho et al. 2020), and with the right weights the sum is an ELBO. The price:
# no short code, and many passes of the network for each image.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### In practice
# - Write down the likelihood, prepare the data for it, and name the binarisation in every table.
# - Sum over pixels and latents; average over images only.
# - Choose weights by *validation* score. Report the *test* ELBO with rate and distortion, and
#   $L_{500}$ beside it.
# - Print rate and active units from the first epoch on.
# - Before drawing samples, compare prior and aggregate posterior.
# - Say of every picture: mean or sample, generated or reconstructed.
#
# ### On your own
# - *(30 minutes)* Take the warm-up out of `fit_vae`. How many units are active then?
# - *(60 minutes)* Train on $L_5$ in place of the ELBO. Is $L_{500}$ higher?
# - *(60 minutes)* Fit data of your own in $[0, 1]$. What is its floor?
#
# ### Further reading
# | on | read |
# | --- | --- |
# | the VAE | Kingma and Welling (2014), [Auto-Encoding Variational Bayes](https://arxiv.org/abs/1312.6114); Rezende, Mohamed and Wierstra (2014), [Stochastic Backpropagation and Approximate Inference in Deep Generative Models](https://arxiv.org/abs/1401.4082); in Pyro: [pyro.ai/examples/vae.html](https://pyro.ai/examples/vae.html) |
# | digits binarised once | Larochelle and Murray (2011), [The Neural Autoregressive Distribution Estimator](https://proceedings.mlr.press/v15/larochelle11a.html) |
# | the linear VAE | Tipping and Bishop (1999), [Probabilistic Principal Component Analysis](https://doi.org/10.1111/1467-9868.00196); Lucas et al. (2019), [Don't Blame the ELBO!](https://arxiv.org/abs/1911.02469) |
# | grey pixels | Loaiza-Ganem and Cunningham (2019), [The continuous Bernoulli](https://arxiv.org/abs/1907.06845) |
# | sharper bounds | Burda, Grosse and Salakhutdinov (2016), [Importance Weighted Autoencoders](https://arxiv.org/abs/1509.00519); Cremer, Li and Duvenaud (2018), [Inference Suboptimality in Variational Autoencoders](https://arxiv.org/abs/1801.03558) |
# | the prior | Hoffman and Johnson (2016), [ELBO surgery](http://approximateinference.org/accepted/HoffmanJohnson2016.pdf); Tomczak and Welling (2018), [VAE with a VampPrior](https://arxiv.org/abs/1705.07120); Ghosh et al. (2020), [From Variational to Deterministic Autoencoders](https://arxiv.org/abs/1903.12436) |
# | the dial | Higgins et al. (2017), [β-VAE](https://openreview.net/forum?id=Sy2fzU9gl); Alemi et al. (2018), [Fixing a Broken ELBO](https://arxiv.org/abs/1711.00464) |
# | labels | Kingma et al. (2014), [Semi-supervised Learning with Deep Generative Models](https://arxiv.org/abs/1406.5298) |
# | alarms | Nalisnick et al. (2019), [Do Deep Generative Models Know What They Don't Know?](https://arxiv.org/abs/1810.09136) |
# | diffusion | Ho, Jain and Abbeel (2020), [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239) |

# %% tags=["progress"]
progress.show("var_mod")
