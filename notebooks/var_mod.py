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
# You write the model, its approximate posterior and a training step, and maximise the free energy:
# a lower bound of the log likelihood, the one idea of this course.
#
# **What you will learn.**
# - Why the marginal likelihood of a latent variable model is out of reach, and how a bound helps.
# - What the two parts of the bound, *distortion* and *rate*, measure, in *nats* (log
#   probabilities with the natural logarithm; one nat is 1.44 bits).
# - How to write the model in Pyro, and its training in plain PyTorch.
# - How to judge a generative model: on test data, with a bound that can be tightened, and with eyes
#   open for collapse, for memorised digits and for false alarms.

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

import ipywidgets
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from matplotlib.colors import ListedColormap
from pyro.infer import SVI, TraceMeanField_ELBO
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader

from course_utils import progress
from course_utils.checks import vae as checks
from course_utils.data import load_mnist
from course_utils.metrics import mean_and_error
from course_utils.plotting import PALETTE, plot_images, plot_loss, use_course_style
from course_utils.predictions import answer, predict
from course_utils.results import publish
from course_utils.runtime import bar, get_device, seed_everything, set_threads
from course_utils.validation import is_number, is_whole, require

# %% tags=["parameters"]
SEED = 0
DEVICE = "auto"  # "cpu" or "cuda" to choose
THREADS = None  # all cores, at most four: these networks are wide enough
AE_STEPS = 800  # steps of the autoencoder
LINEAR_STEPS = 2500  # steps of the linear VAE
PYRO_EPOCHS = 12  # epochs of the two-dimensional VAE
LATENT = 32  # latent dimension of the large VAE
STEPS = 1700  # steps of the large VAE, 80 make an epoch
DIAL = (0.1, 0.3, 1.0, 3.0, 10.0)  # values of beta, increasing, with 1
DIAL_STEPS = 600  # steps for each beta
DIAL_DIGITS = 4000  # training digits for each beta
LABELS = 100  # labelled digits in section 11, as many of each kind
LABEL_SEEDS = 5  # choices of the labelled digits
ALARM_DIGITS = 6000  # training digits, ones left out, in section 12

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# What some checkpoints say if other parameters break them; impossible values are refused here.
EXPECTED = "expected with the parameters as they stand in the notebook"
numbers = {"AE_STEPS": AE_STEPS, "PYRO_EPOCHS": PYRO_EPOCHS, "LATENT": LATENT, "STEPS": STEPS}
for name, value in (numbers | {"DIAL_STEPS": DIAL_STEPS}).items():
    require(is_whole(value, 1), name, "a whole number of at least 1", value)
for name, value in {"DIAL_DIGITS": DIAL_DIGITS, "ALARM_DIGITS": ALARM_DIGITS}.items():
    require(is_whole(value, 100, 16_000), name, "a whole number from 100 to 16,000", value)
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
# Ten colours that the colour-blind can tell apart, after Paul Tol.
TEN = "#332288 #88CCEE #44AA99 #117733 #999933 #DDCC77 #CC6677 #882255 #AA4499 #888888"


def plot_codes(z, labels, ax):
    """Scatter the first 1,000 two-dimensional codes; a number stands amid each kind of digit."""
    z, labels, colours = z[:1000].cpu(), labels[:1000], ListedColormap(TEN.split())
    dots = ax.scatter(*z.T, c=labels, cmap=colours, s=5, vmin=-0.5, vmax=9.5, rasterized=True)
    paper = {"facecolor": "white", "alpha": 0.7, "pad": 0.8, "linewidth": 0}
    for digit in range(10):
        middle = z[labels == digit].median(0).values
        ax.text(*middle, str(digit), weight="bold", ha="center", va="center", bbox=paper)
    ax.set(xlabel="$z_1$", ylabel="$z_2$")
    plt.colorbar(dots, ax=ax, ticks=range(10), label="digit")

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 Digits without labels
# A data set of images $x$ and digits $y$ can be used in three ways. *Supervised* learning has both
# and predicts $y$ from $x$. *Unsupervised* learning has only $x$ and asks how the images are
# distributed. *Partially labelled* data has $y$ for a few images: then the many others can still
# help, as section 11 shows. Until then no label is used for learning. Labels only colour the
# pictures.

# %%
digits = load_mnist()
grey_sets = digits.x_train, digits.x_val, digits.x_test  # (n, 784) in [0, 1]
grey_train, grey_val, grey_test = (x.to(device) for x in grey_sets)
n, d = grey_train.shape
assert (n, d) == (16000, 784) and len(grey_val) == len(grey_test) == 2000

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Black and white
# A likelihood must fit its data. The usual choice for pixels, the Bernoulli distribution, knows 0
# and 1 only. The digits are grey. Give grey pixels to a Bernoulli and the "likelihood" is no
# density of anything. Pyro says so, as long as nobody switches its validation off:

# %% tags=["nbval-check-output", "mistake-V1"]
try:
    dist.Bernoulli(probs=torch.tensor(0.4)).log_prob(torch.tensor(0.3))
    raise AssertionError("validation is switched off")
except ValueError as error:
    print(str(error).splitlines()[0])

# %% [markdown]
# So the digits have to become black and white. There are two customs, and they make *different data
# sets*, whose scores must never be compared:
#
# - **thresholded**: a pixel is 1 if its grey value is above ½;
# - **sampled**: a pixel is 1 with probability equal to its grey value.
#
# Published tables mostly use the second. So do we, wherever pixels have a Bernoulli likelihood.
# Validation and test digits are sampled once and stay fixed. Training digits are sampled afresh
# whenever they are used: the model then never sees the same training image twice.

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
# The same fourteen test digits three times. Sampling leaves the inside of a stroke alone and
# roughens its edges.
#
# That roughness is pure noise, which no model can foresee. It costs $\sum_j
# H(\text{Bernoulli}(x_j^{\text{grey}}))$ nats per image, where $H$ is the entropy: a floor under
# the negative log likelihood of *every* model. At the other end stands a model that knows only how
# often each pixel is black.

# %% tags=["nbval-check-output"]
floor = dist.Bernoulli(grey_test).entropy().sum(-1).mean().item()
frequency = grey_train.mean(0).clamp(1e-4, 1 - 1e-4)  # (d,)
constant = dist.Bernoulli(frequency).log_prob(x_test).sum(-1).mean().item()
print(f"noise of sampling alone: {floor:.1f} nats per image; pixel frequencies: {-constant:.1f}")
assert 20 < floor < 60 and 200 < -constant < 215

# %% [markdown]
# Every good score in this notebook lies between these two numbers. A negative log likelihood of 20
# nats would not be a great model; it would be a mistake, or another binarisation. Thresholded
# digits have no such floor, and grey digits are not even on the same scale: a density can be larger
# than 1.
#
# ### Networks, batches and steps
# Four short functions serve the whole notebook. `mlp` stacks dense layers. The networks that draw
# return *logits*, that is log-odds $\log\frac{p}{1-p}$, one per pixel, and `log_bernoulli` takes
# them as they are. (A sigmoid at the end of the network would be applied twice, a classic mistake:
# it could then never say "certainly white", because $\text{sigmoid}(0) = ½$.)

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

# %% [markdown]
# A *batch* is a few hundred rows; one pass through all rows, in random order, is an *epoch*. A step
# downhill is always the same three lines: forget the old gradient, compute the new one by
# backpropagation (`backward`), move the weights.

# %%
def minibatches(x, batch, steps):
    """Yield ``steps`` batches of rows; within a pass over the data no row comes twice."""
    size, order = min(batch, len(x)), x.new_empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(len(x), device=x.device)
        yield x[order[:size]]
        order = order[size:]

# %% slideshow={"slide_type": "subslide"}
def descend(optimiser, loss):
    """One gradient step downhill."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 An autoencoder
# **Question:** can a network find a short description of a digit on its own?
#
# An *autoencoder* has two halves. The **encoder** maps the image to a code $z$ of $k$ numbers, the
# bottleneck. The **decoder** maps the code back to an image. The loss asks for a good
# reconstruction. Nobody says what the code should mean. With $k = 2$ we can look at it.
#
# **Predict first:** will the ten digits fall apart in the plane, although no label is shown?

# %%
predict("islands", "yes, into ten islands", "some kinds do, others overlap", "no, all are mixed up")

# %%
encoder, decoder = mlp(d, 256, 256, 2).to(device), mlp(2, 256, 256, d).to(device)
adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-3, fused=True)
for grey in (shown := bar(minibatches(grey_train, 200, AE_STEPS), total=AE_STEPS)):
    x = binarise(grey)
    loss = -log_bernoulli(x, decoder(encoder(x))).mean()
    descend(adam, loss)
    shown.set_postfix(loss=f"{loss.item():.1f}", refresh=False)

# %%
with torch.no_grad():
    codes = encoder(x_test)  # (n, 2)
    distortion = -log_bernoulli(x_test, decoder(codes)).mean().item()
print(f"autoencoder, reconstruction: {distortion:.1f} nats per test image")
assert codes.shape == (2000, 2)
assert 110 < distortion < 165, EXPECTED

# %% [markdown]
# That is far better than the pixel frequencies above. But it is **not** a likelihood: the code has
# seen the image, and telling you the code costs nats too. Section 4 calls that price the rate.
#
# Now look at the codes themselves, and then draw *new* codes. Where from? Nothing in the loss says
# where codes should be. The box around all of them is as good a guess as any. **Predict first:**
# how often will the decoder turn a random point of the box into a clear digit?

# %%
predict("random codes", "nearly always", "now and then", "never")

# %% slideshow={"slide_type": "subslide"}
with torch.no_grad():
    train_codes = encoder(binarise(grey_train))  # (16000, 2)
low, high = train_codes.amin(0), train_codes.amax(0)
random_codes = low + (high - low) * torch.rand(30, 2, device=device)
with torch.no_grad():
    drawn = decoder(random_codes).sigmoid()

# %% alt="Left: codes of test digits in the plane, coloured by digit; some kinds form arms of their own, others lie upon each other; crosses mark random codes. Right: thirty decoded random codes, some clear digits, many smears." jupyter={"source_hidden": true}
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4))
plot_codes(codes, digits.y_test, axes[0])
axes[0].plot(*random_codes.T.cpu(), "kx")
axes[0].set_title("dots: test digits, crosses: random codes")
_ = plot_images(drawn, rows=5, ax=axes[1]).set_title("decoded random codes (pixel means)")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("islands", "some kinds do, others overlap", "Left: the dots are coloured by their digit.")
answer(
    "random codes",
    "now and then",
    "Right: some are digits, mostly of the few kinds whose codes take up much room; others are "
    "smears or blends.",
)

# %% [markdown]
# Left: codes of the first thousand test digits. Right: thirty codes drawn evenly over the box
# around all training codes, decoded. The crosses often land where few or no digits were encoded,
# and nothing told the decoder what to draw there. How much of the box is such no-man's-land? Lay a
# grid of 20 × 20 cells over the box and count the cells without any code of the 16,000 training
# digits.

# %%
cell = ((train_codes - low) / (high - low) * 20).long().clamp(max=19).cpu()  # 20 x 20 cells
empty = 1 - len(torch.unique(cell, dim=0)) / 400
print(f"{empty:.0%} of the box holds no code of a training digit")
assert 0.1 < empty < 0.9, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# An autoencoder compresses. To *draw*, we must know where codes live. So let us say it ourselves:
# give $z$ a distribution.
#
# The autoencoder also has no *score* for a new image that could be compared with another model's:
# its reconstruction error falls with every latent dimension we add, down to zero when the code is
# the image.

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
# **Question:** why not estimate the integral by its definition, as the average of $p(x \mid z_s)$
# over draws $z_s \sim p(z)$?
#
# A small model lets us compare with the truth: a row of 20 lamps, and a position $z \sim N(0, 1)$.
# Lamps near $z$ are probably on, the others off. One dimension can be integrated on a grid. For
# each of 32 such rows we compute $\log p(x)$ by adding up $p(x \mid z) p(z)$ over 4,001 values of
# $z$. All sums of tiny numbers are taken in logarithms, by `logsumexp`.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 The variational bound
# The earlier lectures had the same trouble with the same cure: approximate the posterior by a
# distribution $q$ that we can draw from, and turn integration into optimisation. (Pyro calls $q$
# the *guide*.) For one image $x$,
#
# $$ \log p_\theta(x) = \underbrace{E_{q}\big[\log p_\theta(x \mid z)\big] -
# \text{KL}\big(q(z)\,\|\,p(z)\big)}_{\text{ELBO}}
# \; + \; \text{KL}\big(q(z)\,\|\,p_\theta(z \mid x)\big). $$
#
# *Derivation.* Write $\log p(x) = \log p(x, z) - \log p(z \mid x)$, add and subtract $\log q(z)$,
# and take the expectation over $q$: the left side does not depend on $z$. Then split $\log p(x, z)
# = \log p(x \mid z) + \log p(z)$; the second part joins $\log q(z)$ to the KL term. $\square$
#
# **In words:** how well do codes drawn from $q$ explain the image, minus how far $q$ has moved from
# the prior? That is the *evidence lower bound*, the ELBO, the *free energy* of lectures 1–3. The
# last term is never negative, so it is a **lower bound** of the log likelihood. Raising it over $q$
# closes the gap; raising it over $\theta$ improves the bound, and usually the model. Its parts have
# names that we shall measure all the time:
#
# - **distortion** $= -E_q[\log p_\theta(x \mid z)]$: nats to describe the image given its code;
# - **rate** $= \text{KL}(q(z) \| p(z))$: nats to transmit the code (by a scheme called bits-back
#   coding);
# - ELBO $= -(\text{distortion} + \text{rate})$.
#
# An autoencoder minimises the distortion and forgets the rate. In words of data compression: a
# sender who knows $x$ sends a code, at the price of the rate, and then the corrections that the
# decoder still needs, at the price of the distortion. The sum is the whole message.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Amortisation.** With a separate $q$ for each of 16,000 images we would fit 16,000 posteriors. A
# VAE trains one network, the **encoder** with weights $\phi$, that *computes* the parameters of
# $q_\phi(z \mid x)$ from $x$:
#
# $$ q_\phi(z \mid x) = N\big(z_\mu(x),\ \text{diag}(z_\sigma(x)^2)\big). $$
#
# A new image costs one forward pass. The price is an *amortisation gap*, measured in section 9.
#
# **A draw that lets the gradient pass.** The distortion is a mean over draws of $q_\phi$, and
# training needs its gradient by $\phi$. So a draw is written as shift and scale of noise without
# parameters, $z = z_\mu + z_\sigma\, \varepsilon$ with $\varepsilon \sim N(0, I)$: the
# *reparametrisation trick*. Section 6 compares it with the alternative.
#
# The rate needs no draws, because two Gaussians have a divergence in closed form. Formulas like
# that invite slips. So derive it.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 1: derive and code the rate (15 minutes)
# Start from $\text{KL}(q\|p) = E_q[\log q(z) - \log p(z)]$ with $q = N(\mu, \text{diag}(\sigma^2))$
# and $p = N(0, I)$, with pencil and paper. Then code it in PyTorch: `mu` and `sigma` (a standard
# deviation) have shape `(n, k)`, the answer has shape `(n,)`, in nats. The notebook goes on with
# *your* rate once it has passed.

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
# Every closed form deserves a safeguard: a Monte Carlo estimate of the definition, $\frac1S\sum_s
# [\log q(z_s) - \log p(z_s)]$ with $z_s \sim q$.

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
# All parts are there. The networks first: an encoder that returns $z_\mu$ and $z_\sigma$, and a
# decoder that returns logits. No batch normalisation, so there is no training mode to forget.

# %%
class Vae(nn.Module):
    """p(z) = N(0, I), p(x | z) Bernoulli; q(z | x) = N(mu, diag sigma^2); x (n, d), z (n, k)."""

    def __init__(self, d, k, hidden=400):
        super().__init__()
        self.encoder = mlp(d, hidden, hidden, 2 * k)
        self.decoder = mlp(k, hidden, hidden, d)

    def posterior(self, x):
        """Mean and standard deviation of q(z | x): (n, d) -> (n, k), (n, k)."""
        mu, log_sigma = self.encoder(x).chunk(2, -1)
        return mu, log_sigma.clamp(-8, 8).exp()

# %% [markdown] slideshow={"slide_type": "subslide"}
# In Pyro, the **model** is $p_\theta(x, z)$ and the **guide** is $q_\phi(z \mid x)$: two functions
# that draw. Five words say all of it:
#
# - `pyro.sample(name, distribution)` draws, under a name. The same name in model and guide ties
#   them together.
# - `obs=` in a sample: this was not drawn, it was observed.
# - `pyro.plate(name, size)` in a `with`: what stands in it happens for `size` cases independently.
# - `.to_event(1)` after a distribution: its last axis is *one* event, with one log density.
# - `pyro.module(name, network)` registers weights, so that the optimiser finds them.
#
# Distributions are those of PyTorch, as `dist.Normal(mean, standard_deviation)` and
# `dist.Bernoulli(logits=…)`. Validation stays on: a grey pixel raises the error of section 1
# instead of training nonsense.
#
# ### Exercise 3: write the model (15 minutes)
# Write the story of section 3 in Pyro: for each of the `len(x)` images a latent `"z"` with `k`
# numbers, then its pixels `"x"`, which are observed. `vae.decoder(z)` gives the logits `(n, d)`.
# The check compares log densities with those of the formulas, and follows the gradients. What you
# write here is what the notebook trains, once it has passed.

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
# ### Exercise 4: write the guide (10 minutes)
# Now $q_\phi(z \mid x)$: `vae.posterior(x)` returns the encoder's means and standard deviations,
# both `(n, k)`. The guide takes the same arguments as the model, and registers the network as well.

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

# %% [markdown] slideshow={"slide_type": "subslide"}
# Pyro learns what a guide does by running it and noting every draw: that is a *trace*. One trace
# shows the shapes.

# %%
model = my_model if checks.check_vae_model(my_model) else course_model
guide = my_guide if checks.check_vae_guide(my_guide) else course_guide
pyro.clear_param_store()
trace = pyro.poutine.trace(guide).get_trace(Vae(d, 2).to(device), x_test[:5], 2)
trace.compute_log_prob()
assert trace.nodes["z"]["value"].shape == (5, 2)  # batch 5, event 2
assert trace.nodes["z"]["log_prob"].shape == (5,)  # one number per image

# %% [markdown] slideshow={"slide_type": "subslide"}
# `SVI` estimates the gradient of the ELBO and takes a step. `TraceMeanField_ELBO` uses the closed
# form of the rate where both sides are Gaussian; the default `Trace_ELBO` estimates it with the
# same draw, which is equally right on average. If $q$ were the exact posterior, its estimate of the
# ELBO would have no noise, but its gradient still would. The loss is a *sum* over the batch, so we
# divide by the number of images: nats per image.
#
# No factor $N/B$ ($N$ data, $B$ of them in a batch) appears here, unlike in the notebook on
# Bayesian networks. There, weights have a prior that must be balanced against all the data. Here,
# every latent belongs to one image, and the weights $\theta, \phi$ are plain parameters: scaling
# the loss would not move its optimum. **Predict first:** which curve will be higher during the
# first epochs?

# %%
predict("first epochs", "training", "validation", "neither: they lie on each other")

# %%
pyro.clear_param_store()
seed_everything(SEED)
flat = Vae(d, 2).to(device)  # a two-dimensional latent, to look at
with torch.no_grad():
    flat.decoder[-1].bias.copy_(frequency.logit())  # start from the pixel frequencies
svi = SVI(model, guide, pyro.optim.Adam({"lr": 3e-3, "fused": True}), TraceMeanField_ELBO())
history = {"training": [], "validation": []}
for _ in (shown := bar(range(PYRO_EPOCHS), desc="epochs")):
    losses = []
    for grey in minibatches(grey_train, 200, n // 200):
        losses.append(svi.step(flat, binarise(grey), 2) / len(grey))
    history["training"].append(-sum(losses) / len(losses))
    history["validation"].append(-svi.evaluate_loss(flat, x_val, 2) / len(x_val))
    shown.set_postfix(loss=f"{losses[-1]:.1f}", refresh=False)

# %%
flat_elbo = -svi.evaluate_loss(flat, x_test, 2) / len(x_test)
print(f"test ELBO {flat_elbo:.1f} nats per image; last training batch {-losses[-1]:.1f}")
assert -160 < flat_elbo < -138, EXPECTED

# %% alt="ELBO per image against the epoch. The validation curve begins above the training curve; both rise steeply, then slowly, and come close to each other." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
ax = plot_loss(history, xlabel="epoch", ylabel="ELBO (nats per image)")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "first epochs",
    "validation",
    "Not because its digits are easier: the training value is an average over an epoch in which "
    "the weights were still improving.",
)
lag = [after - during for during, after in zip(*history.values(), strict=True)]
assert lag[0] > 5 and abs(lag[-1]) < lag[0] / 3, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# Later the curves come close: within an epoch the weights hardly improve any more. Which of them is
# higher then says little about overfitting, that is, about knowing training digits better than new
# ones: the curves are about different digits, and some digits are harder than others. Two numbers
# per image are all that a plane has room for, and still the ELBO climbs by tens of nats above the
# pixel frequencies. The last *batch* of training is printed for a reason: many tutorials report it
# as their result. It is noisy, and it is not about new images. Only the test ELBO counts, over the
# whole test set.
#
# ### Exercise 5: find the bug (15 minutes)
# The same loss without Pyro takes three lines, and many scripts have it like this. It trains
# without any warning, reports a small loss and draws the same grey blob every time. Find out why,
# and write `my_vae_loss`: minus the ELBO of an image, averaged over the batch.
#
# ```python
# def buggy_loss(x, logits, mu, sigma):
#     reconstruction = F.binary_cross_entropy_with_logits(logits, x)
#     rate = gaussian_kl(mu, sigma).mean()
#     return reconstruction + rate
# ```

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 6: a training step in plain PyTorch (15 minutes)
# Nothing in `SVI` is magic. Write one step on minus the ELBO for a batch `x`: from the encoder to a
# draw of $z$, to the logits, to the loss, to new weights. Return the loss as a number, in nats per
# image. `vae_loss(x, logits, mu, sigma)` is yours from above, if it has passed. The check lets your
# step train a VAE so small that its exact likelihood is known.

# %%
vae_loss = my_vae_loss if checks.check_vae_loss(my_vae_loss) else course_vae_loss

# %% tags=["exercise"]
def my_step(vae, x, optimiser):
    return ...  # replace this by your code


checks.check_vae_step(my_step)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Three parts: `vae.posterior(x)` and a draw that lets the gradient pass (section 4); the decoder
# and the loss; the three lines of `descend` (section 1).
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.randn_like(mu)` is noise of the shape of `mu`. `loss.item()` turns a tensor into a number.
#
# </details>

# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def plain_step(vae, x, optimiser):
    """One gradient step on -ELBO; the loss in nats per image."""
    mu, sigma = vae.posterior(x)
    z = mu + sigma * torch.randn_like(mu)
    loss = vae_loss(x, vae.decoder(z), mu, sigma)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


course_step = plain_step
assert checks.check_vae_step(plain_step)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Let a copy of the network go on with this step for one more epoch. Its first loss must be that of
# Pyro, up to the noise of the draws.

# %%
plain_step = my_step if checks.check_vae_step(my_step) else course_step
twin = copy.deepcopy(flat)
adam = torch.optim.Adam(twin.parameters(), 1e-3)
loss_pyro = svi.evaluate_loss(flat, x_val, 2) / len(x_val)
loss_plain = plain_step(twin, x_val, torch.optim.SGD(twin.parameters(), 0.0))  # rate 0: only look
for grey in minibatches(grey_train, 200, n // 200):
    plain_step(twin, binarise(grey), adam)
loss_after = svi.evaluate_loss(twin, x_val, 2) / len(x_val)
print(
    f"Pyro {loss_pyro:.1f}, plain PyTorch {loss_plain:.1f}; after one more epoch {loss_after:.1f}"
)
assert abs(loss_pyro - loss_plain) < 1.5
assert loss_after < loss_pyro + 1, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The same loss, and the same training. What Pyro buys is that model and guide can be *changed*
# without deriving the loss again. What the plain form buys is less overhead; we use it from here
# on.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 What it learnt
# **Question:** is the plane of codes now one we can draw from? The prior is $N(0, I)$. So take a
# grid that is even *under the prior*, quantiles along each axis, and decode it.

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
# $z_1$ grows to the right and $z_2$ upwards. All of them are drawn, not reconstructed, and they are
# means of the pixels, not samples. The plane is full of digits, and between two kinds lies a
# plausible blend.
#
# Now the other way round: where does the encoder put digits? Draw one $z$ from $q(z \mid x)$ for
# each test digit. This cloud is the **aggregate posterior** $\bar q(z) = \frac1n \sum_i q(z \mid
# x_i)$. To draw new digits from the prior is only right if the two agree. **Predict first:** the
# prior puts 3 points in 10,000 beyond radius 4. How many of the encoded digits lie there?

# %%
predict("aggregate", "hardly any, as under the prior", "about 1 in 100", "about 1 in 5")

# %%
steps = torch.linspace(0.03, 0.97, 12, device=device)
quantile = dist.Normal(0.0, 1.0).icdf(steps)  # (12,)
square = torch.cartesian_prod(quantile.flip(0), quantile).flip(-1)  # rows: z_2 downwards
with torch.no_grad():
    manifold = flat.decoder(square).sigmoid()  # (144, d), pixel means
    mu_test, sigma_test = flat.posterior(x_test)
    z_test = mu_test + sigma_test * torch.randn_like(mu_test)

# %% alt="Left: a square of 12 times 12 decoded digits. Right: a cloud of encoded test digits, coloured by kind, with circles at one and two standard deviations of the prior; the kinds lie in sectors, and arms reach beyond radius 4." tags=["picture-digits"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(8.5, 4))
plot_images(manifold, rows=12, ax=axes[0]).set_title("decoded plane (pixel means)")
plot_codes(z_test, digits.y_test, axes[1])
for radius in (1, 2):
    axes[1].add_patch(plt.Circle((0, 0), radius, fill=False, linestyle="--"))
edge = quantile[-1].item()
axes[1].add_patch(plt.Rectangle((-edge, -edge), 2 * edge, 2 * edge, fill=False))
_ = axes[1].set(title="draws from q(z | x), test digits", aspect="equal")

# %% [markdown]
# Left: the plane again, over the square that is drawn on the right. Right: one draw from $q(z \mid
# x)$ for each of a thousand test digits. The dashed circles are one and two standard deviations of
# the prior. Around the origin there are few holes: the rate has pulled the digits together.

# %%
aggregate_mean, aggregate_sd = z_test.mean(0), z_test.std(0)
far = (z_test.norm(dim=-1) > 4).float().mean().item()
print("aggregate posterior: mean", aggregate_mean.cpu().numpy().round(2), "standard deviation",
      aggregate_sd.cpu().numpy().round(2))  # fmt: skip
print(f"beyond radius 4: {far:.2%} of the draws, {math.exp(-8):.2%} of the prior")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "aggregate",
    "about 1 in 100",
    "Prior and aggregate posterior are close, not equal: that is part of every generated picture's "
    "faults.",
)
assert aggregate_mean.abs().max() < 0.35, EXPECTED
assert ((0.7 < aggregate_sd) & (aggregate_sd < 1.4)).all(), EXPECTED
assert 0.002 < far < 0.05, EXPECTED

# %% [markdown]
# The means nearly agree; the standard deviations are somewhat larger than those of the prior.
#
# Move through the plane yourself (the picture above shows its middle all at once):

# %%
def explore(z1, z2):
    """Show the pixel means at one point of the latent plane."""
    with torch.no_grad():
        image = flat.decoder(torch.tensor([[z1, z2]], device=device)).sigmoid()
    plt.figure(figsize=(2, 2))
    plot_images(image, rows=1).set_title(f"z = ({z1:.1f}, {z2:.1f})")
    plt.show()


slider = {"min": -2.5, "max": 2.5, "step": 0.1}
_ = ipywidgets.interact(
    explore, z1=ipywidgets.FloatSlider(0, **slider), z2=ipywidgets.FloatSlider(0, **slider)
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 The score

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A model with scores
# `ScoredVae` is the `Vae` from above with its scores. Scores demand black and white pixels and
# refuse others, for the reason of section 1. All are in nats per row, and use noise of their own
# with a fixed seed: the same images always get the same score.

# %%
importance_bound = my_bound if checks.check_importance_bound(my_bound) else course_bound


def as_pixels(x, binary=False):
    """Check images (n, d) with values in [0, 1], only 0 and 1 if ``binary``; return them as floats.

    Raises:
        ValueError: If the shape or the values are different.
    """
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    if x.ndim != 2 or not x.numel():
        raise ValueError(f"images must have shape (n, d), not {tuple(x.shape)}")
    if not ((x >= 0) & (x <= 1)).all() or (binary and not ((x == 0) | (x == 1)).all()):
        wanted = "0 or 1: binarise them first" if binary else "in [0, 1]"
        raise ValueError(f"pixels must be {wanted}; found {x.min():.3g} to {x.max():.3g}")
    return x

# %% [markdown] slideshow={"slide_type": "subslide"}
# Memory is the only trap: 500 draws for 2,000 images are a million decoded images. So `bound` takes
# the rows in portions.

# %%
class ScoredVae(Vae):
    """A Vae with elbo(x), bound(x, draws), both (n,) nats per row, and sample(n) -> (n, d)."""

    @torch.no_grad()
    def terms(self, x, seed=0):
        """Distortion and rate in nats, both (n,), with one draw of z per row."""
        x = as_pixels(x, binary=True).to(self.decoder[-1].bias)
        mu, sigma = self.posterior(x)
        noise = torch.Generator(x.device).manual_seed(seed)
        eps = torch.randn(mu.shape, generator=noise, device=mu.device, dtype=mu.dtype)
        return -log_bernoulli(x, self.decoder(mu + sigma * eps)), gaussian_kl(mu, sigma)

    def elbo(self, x, seed=0):
        """Evidence lower bound in nats, (n,)."""
        return -sum(self.terms(x, seed))

    @torch.no_grad()
    def bound(self, x, draws, seed=0):
        """Importance-weighted bound in nats, (n,)."""
        x = as_pixels(x, binary=True).to(self.decoder[-1].bias)
        portions = x.split(max(1, 10_000_000 // (draws * x.shape[1])))
        shown = bar(portions, desc="images", disable=len(x) * draws < 1e5)
        with torch.random.fork_rng([x.device] if x.is_cuda else []):
            torch.manual_seed(seed)
            return torch.cat([torch.as_tensor(importance_bound(self, v, draws)) for v in shown])

    def sample(self, n, seed=0, means=False):
        """Binary images drawn from the model, or their pixel means: (n, d)."""
        return draw_images(self, n, seed, means)

# %% slideshow={"slide_type": "subslide"}
@torch.no_grad()
def draw_images(vae, n, seed, means):
    """z from the prior, pixel means from the decoder, pixels from the likelihood: (n, d)."""
    bias = vae.decoder[-1].bias
    noise = torch.Generator(bias.device).manual_seed(seed)
    shape = (n, vae.decoder[0].in_features)
    z = torch.randn(shape, generator=noise, device=bias.device, dtype=bias.dtype)
    probability = vae.decoder(z).sigmoid()  # (n, d)
    return probability if means else torch.bernoulli(probability, generator=noise)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Training
# The step is the one of section 7. Around it are the few things that matter in practice:
#
# - **A fair start.** The last bias of the decoder begins at the log-odds of the pixel frequencies.
#   The network need not spend its first epochs learning that corners are white, while the rate
#   drives latents to the prior, where they may stay.
# - **A one-cycle learning rate**: up to 0.003, then down to almost zero.
# - **A warm-up**: over the first half of the steps the price of the rate rises from 0 to 1.
#   Otherwise latents can switch off before the decoder has learnt to use them.
# - **Fresh binarisation** of grey pixels in each batch. Binary data is left as it is.
# - **Validation** twenty times; the weights with the best validation score are kept.

# %%
def fit_vae(x_train, x_val, *, k, seed, hidden=400, steps=1700, batch=200, lr=3e-3, beta=1.0):
    """Fit a ScoredVae to images (n, d), binary or grey in [0, 1]; latent dimension k."""
    torch.manual_seed(seed)
    x_train, x_val = as_pixels(x_train), binarise(as_pixels(x_val))
    vae = ScoredVae(x_train.shape[1], k, hidden).to(x_train)
    with torch.no_grad():
        vae.decoder[-1].bias.copy_(x_train.mean(0).clamp(0.01, 0.99).logit())
    adam = torch.optim.Adam(vae.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, lr, total_steps=steps)
    best, kept = math.inf, None
    shown = bar(minibatches(x_train, batch, steps), total=steps, desc=f"k = {k}, β = {beta:g}")
    for step, x in enumerate(map(binarise, shown), 1):
        mu, sigma = vae.posterior(x)
        z = mu + sigma * torch.randn_like(mu)
        price = beta * min(1, 2 * step / steps)  # warm-up
        descend(adam, (price * gaussian_kl(mu, sigma) - log_bernoulli(x, vae.decoder(z))).mean())
        schedule.step()
        if step % max(1, steps // 20) == 0 or step == steps:
            distortion, rate = vae.terms(x_val, seed)
            score = (distortion + beta * rate).mean().item()
            shown.set_postfix(loss=f"{score:.1f}", refresh=False)
            if score < best:
                best, kept = score, copy.deepcopy(vae.state_dict())
    vae.load_state_dict(kept)
    return vae

# %%
vae = fit_vae(grey_train, x_val, k=LATENT, seed=SEED, steps=STEPS)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The score
# **Predict first:** the test ELBO will be near −99 nats. How far above is the log likelihood?

# %%
predict("above the ELBO", "less than one nat", "a few nats", "tens of nats")

# %% tags=["mistake-V6"]
distortion, rate = (term.mean().item() for term in vae.terms(x_test))
elbo = vae.elbo(x_test)  # (n,)
bounds = {draws: vae.bound(x_test, draws).mean().item() for draws in (1, 5, 50)}
print(f"test ELBO {elbo.mean():.1f} = -(distortion {distortion:.1f} + rate {rate:.1f}) nats")
assert len(elbo) == len(x_test)  # every test digit counts

# %% [markdown] slideshow={"slide_type": "subslide"}
# The other latents are switched off: for every image $q(z_i \mid x)$ is nearly the prior, which
# costs no rate and tells the decoder nothing. How many are left depends on $k$ and on how long one
# trains.
#
# ### Look at the images
# Three kinds of pictures are easily confused, and often are: the **mean** of the pixels given a
# code, a binary **sample** of the pixels, and a **reconstruction**, which has seen the image it
# shows. Only what starts from $z \sim p(z)$ is generated.

# %%
with torch.no_grad():
    mu, sigma = vae.posterior(x_test[:14])
    rebuilt = vae.decoder(mu + sigma * torch.randn_like(mu)).sigmoid()
means, samples = vae.sample(14, seed=SEED, means=True), vae.sample(14, seed=SEED)
distance, nearest = torch.cdist(means, grey_train).min(-1)  # both (14,)
assert distance.min() > 1, EXPECTED  # not a copy; pixels lie between 0 and 1
panels = {
    "test digits": x_test[:14],
    "their reconstructions (means)": rebuilt,
    "generated, z from the prior (means)": means,
    "the same z (binary samples)": samples,
    "training digits nearest to the generated means": grey_train[nearest],
}

# %% alt="Five rows of fourteen images: test digits; their reconstructions, a little blurred; generated digits, some clear, some blends; ragged binary samples of the same; and the nearest training digits, which differ." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(5, 1, figsize=(7, 4.9))
for ax, (name, images) in zip(axes, panels.items(), strict=True):
    plot_images(images, rows=1, ax=ax).set_title(name, loc="left")

# %% [markdown]
# Reconstructions keep the identity of most digits. Some of the generated images are clear digits;
# the others are blends that no hand has written. None is a copy of its nearest training digit, so
# there is no sign of memorising, which is not a proof. The binary samples look ragged, as the data
# of section 1 do, because each pixel is drawn on its own.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 Collapse

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

# %% tags=["mistake-V10"]
collapsed = fit_vae(grey_train[:DIAL_DIGITS], x_val, beta=d, **setting)
for name, m in {f"β = {d} (mean over pixels)": collapsed, "β = 1": dial[1.0]}.items():
    distortion, rate = (term.mean().item() for term in m.terms(x_test))
    units_on = int(active_units(m, x_test))
    print(f"{name:27s} 'loss per pixel' {distortion / d:.3f}, rate {rate:5.2f}, "
          f"active units {units_on}, ELBO {-distortion - rate:.1f}")  # fmt: skip
    assert (units_on == 0 and rate < 0.1) if m is collapsed else units_on >= 6, EXPECTED

# %% alt="Two rows of fourteen generated images. Collapsed: the same grey blob each time. Cured: varied images, many of them digits." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(2, 1, figsize=(7, 2))
for ax, (name, m) in zip(axes, {"collapsed": collapsed, "cured": dial[1.0]}.items(), strict=True):
    drawn = m.sample(14, seed=SEED, means=True)
    plot_images(drawn, rows=1, ax=ax).set_title(f"{name}: generated (means)", loc="left")

# %% [markdown]
# The pictures of the collapsed model are all the same blob; those of the cured one vary, and many
# are digits. But nothing crashed. The first number, the loss per pixel that such a script prints,
# is small and looks as if something had been learnt. Rate and active units detect the collapse at
# once. The cure here is the right loss. Collapse can also come with the *right* loss: a powerful
# decoder does without codes, or the rate wins before the decoder has learnt anything. That is not
# shown here. What helps then is a warm-up, β raised from 0 to 1 over the first epochs, and a
# decoder whose bias starts at the pixel frequencies. `fit_vae` has both.
#
# ### A dial that nobody sees
# A related slip is to write down a Bernoulli and to train with a squared error. A squared error is
# a likelihood too, but another one: up to a constant it is $-\log$ of a Gaussian density. Its sum
# over pixels belongs to a Gaussian of variance $\frac12$. Scripts that minimise $1000 \cdot
# \text{MSE} + \text{KL}$, with the mean over $d = 784$ pixels, have fixed that variance at $d /
# 2000$ without saying so:

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 9 Where everything is known
# ### The bound at work: lamps
# Back to the lamps, where $\log p(x)$ is known. Fit one Gaussian $q$ per row of lamps by gradient
# ascent on the ELBO, with 64 draws per step; `requires_grad_` marks what is trained. **Predict
# first:** how close to the exact value can a Gaussian come?

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
z_true = torch.randn(32, dtype=torch.double)  # one position per row of lamps
lamps = binarise(lamp_logits(z_true).sigmoid())  # (32, LAMPS)
grid = torch.linspace(-6, 6, 4001, dtype=torch.double)
log_given = log_bernoulli(lamps[:, None], lamp_logits(grid).expand(32, -1, -1))  # (32, grid)
log_joint = log_given + log_normal(grid)
log_exact = log_joint.logsumexp(-1) + math.log(12 / 4000)  # (32,), nats
assert log_exact.shape == (32,) and (log_exact < 0).all()

# %% [markdown]
# Now brute force. And because a digit has more than one degree of freedom, we also take $k$
# independent rows of lamps as *one* image with a $k$-dimensional latent. Its exact log likelihood
# is a sum of $k$ numbers we have. **Predict first:** if 1,000 draws are enough for $k = 1$, how
# many are as good for $k = 8$?

# %%
predict("lamps", "about 8,000, eight times as many", "about 64,000, eight times eight", "millions")

# %%
def brute_force(k, draws):
    """log of the mean over prior draws of p(x | z), for the first k rows of lamps as one image."""
    z = torch.randn(draws, k, dtype=torch.double)
    log_likelihood = log_bernoulli(lamps[:k], lamp_logits(z)).sum(-1)  # (draws,)
    return (log_likelihood.logsumexp(0) - math.log(draws)).item()


rows_of_lamps, budgets = (1, 2, 4, 8, 16), (100, 1000, 10_000)
truth = [log_exact[:k].sum().item() for k in rows_of_lamps]
missing = {
    draws: [
        log_p - sum(brute_force(k, draws) for _ in range(10)) / 10
        for k, log_p in zip(rows_of_lamps, truth, strict=True)
    ]
    for draws in budgets
}

# %% alt="Missing nats against the latent dimension for 100, 1,000 and 10,000 draws. All three curves begin near zero at dimension 1 and climb to tens or hundreds of nats at 16." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots()
for draws, gap in missing.items():
    ax.plot(rows_of_lamps, gap, "o-", label=f"{draws:,} draws")
ax.set(xlabel="latent dimension $k$", xscale="log")
ax.set_ylabel("missing log likelihood (nats)\nabove 1 logarithmic", fontsize=10)
ax.set_xticks(rows_of_lamps, labels=rows_of_lamps)
ax.set_yscale("symlog", linthresh=1)
ax.set_ylim(-1, 600)
_ = ax.legend()

# %%
print(f"k = 1: {abs(missing[10_000][0]):.2f} nats missing with 10,000 draws; k = 16: "
      f"{missing[10_000][-1]:.0f}")  # fmt: skip
assert abs(missing[10_000][0]) < 0.1

# %% [markdown]
# How many draws would do? The relative variance of an average of $S$ draws is $(m - 1)/S$, where
# $m$ is the mean of the squared likelihood over the square of its mean. On the grid, $m$ is exact
# for one row of lamps; for $k$ independent rows these numbers are multiplied.

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
log_square = (log_given + log_joint).logsumexp(-1) + math.log(12 / 4000) - 2 * log_exact  # log m
needed = 1000 * (log_square[:8].sum().exp() - 1) / (log_square[0].exp() - 1)
why = f"These lamps need {needed / 1e6:,.0f} million: a draw must explain all eight rows at once. "
answer("lamps", "millions", why + "If one row needs $c$ draws, eight need some $c^8$.")
assert needed > 1e6 and missing[10_000][-1] > 10 and missing[100][-1] > missing[10_000][-1]

# %% [markdown] slideshow={"slide_type": "subslide"}
# In one dimension brute force is fine. In sixteen it misses tens of nats or more, and a hundredfold
# more draws are no cure. Almost every draw from the prior says "these lamps are
# impossible"; the few $z$ that explain the image fill a share of the prior that shrinks
# exponentially with $k$. The estimate needs draws from where the integrand lives: from the
# **posterior** $p_\theta(z \mid x)$, which we do not have.
#
# Note the sign, too. The missing nats are never gained elsewhere: the logarithm of an unbiased
# estimate is too small on average (Jensen's inequality). That is the seed of a *lower bound*.

# %%
predict("gaussian lamps", "within 0.05 nats", "about half a nat", "several nats")

# %%
location = grid[log_joint.argmax(-1)][:, None].clone().requires_grad_()  # (32, 1)
log_scale = torch.full_like(location, -2.0).requires_grad_()
adam = torch.optim.Adam([location, log_scale], 0.02)
for _ in (shown := bar(range(300))):
    z = location + log_scale.exp() * torch.randn(32, 64, dtype=torch.double)
    distortion = -log_bernoulli(lamps[:, None], lamp_logits(z)).mean(-1)
    loss = (distortion + gaussian_kl(location, log_scale.exp())).sum()
    descend(adam, loss)
    shown.set_postfix(loss=f"{loss.item() / 32:.2f}", refresh=False)

# %%
with torch.no_grad():
    log_q = dist.Normal(location, log_scale.exp()).log_prob(grid)  # (32, grid)
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

# %% alt="Thirty-two dots on a logarithmic scale: the gap between log likelihood and ELBO of each row of lamps is positive and mostly below a hundredth of a nat." jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(5, 3.5))
ax.semilogy(log_exact, gap.clamp(min=1e-6), "o")
_ = ax.set(xlabel="exact log p(x) (nats)", ylabel="log p(x) − ELBO (nats)")

# %% [markdown]
# Each dot is one row of lamps. No gap is negative: the ELBO is a bound, and here a tight one. The
# gap is $\text{KL}(q \| p(z \mid x))$ and nothing else, so it tells us how Gaussian the posterior
# is. Here we could compute the expectation over $q$ on the grid, without noise. With an image and
# sixteen latents we cannot; then the ELBO is itself a Monte Carlo estimate, but one with *small*
# variance, because $q$ looks where the integrand lives.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 Another likelihood

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### A linear VAE
# **Question:** with an encoder network and noisy gradients, does the ELBO really reach the log
# likelihood? There is one VAE for which we can check: the *linear* one. Let
#
# $$ z \sim N(0, I), \qquad x \mid z \sim N(W z + m, \ s^2 I), \qquad
# q(z \mid x) = N\big(V (x - m),\ \text{diag}(z_\sigma^2)\big). $$
#
# Here $W$ is $(d, k)$, $V$ is $(k, d)$, $m$ is the mean of the data, and $s$ is the standard
# deviation of the noise (in sections 5 and 6; elsewhere $s$ numbers draws).
#
# This model is **probabilistic principal component analysis** (Tipping and Bishop 1999). The
# marginal is Gaussian, $x \sim N(m, W W^\top + s^2 I)$. So is the posterior, which you will derive.
# Even the maximum of the likelihood is known, from the eigenvalues $\lambda_1 \ge \lambda_2 \ge
# \dots$ of the data's covariance matrix. With $k$ components kept, $s^2$ is the mean of the others
# and
#
# $$ \max \tfrac1n \log p = -\tfrac12 \Big( d \log 2\pi + \sum_{i \le k} \log \lambda_i +
# (d - k) \log s^2 + d \Big). $$
#
# The data: grey digits shrunk to 7 × 7 pixels, $d = 49$, and $k = 2$. Their likelihood is Gaussian,
# so grey values are allowed here. (They are a poor fit all the same: a Gaussian puts mass below 0
# and above 1. The point of this section is the bound, not the model.) The numbers are log
# *densities*, and so may be positive.

# %% tags=["nbval-check-output"]
small = F.avg_pool2d(grey_train.view(-1, 1, 28, 28), 4).flatten(1)  # (n, 49)
small = small - small.mean(0)  # m = 0 from here on
on_cpu = small.cpu().double()
eigenvalues = torch.linalg.eigvalsh(on_cpu.T @ on_cpu / n).flip(0)  # (49,)
noise = eigenvalues[2:].mean()  # s^2 at the optimum
best = (
    -0.5 * (49 * math.log(2 * math.pi) + eigenvalues[:2].log().sum() + 47 * noise.log() + 49).item()
)
print(f"best possible mean log density: {best:.3f} nats per digit")

# %% [markdown] slideshow={"slide_type": "subslide"}
# The linear VAE has four parameters: $W$, $V$, $\log s$ and $\log z_\sigma$. Its loss uses one draw
# of $z$ per digit, like any VAE. To judge it we can do better: here the expectation over $q$ has a
# closed form, because $E_q \|x - Wz\|^2 = \|x - W z_\mu\|^2 + \sum_{ji} W_{ji}^2 z_{\sigma,i}^2$.
# **Predict first:** nobody tells the encoder what the exact posterior is. Will it find it?

# %%
predict("linear", "yes, mean and width", "the mean, but too narrow a width", "neither")

# %%
def linear_elbo(x, w, v, log_s, log_sigma):
    """ELBO of the linear VAE with one draw of z per datum: (n, d) -> (n,), nats."""
    mu, sigma = x @ v.T, log_sigma.exp().expand(len(x), -1)  # (n, k)
    z = mu + sigma * torch.randn_like(mu)
    log_likelihood = dist.Normal(z @ w.T, log_s.exp()).log_prob(x).sum(-1)
    return log_likelihood - gaussian_kl(mu, sigma)


def linear_elbo_exact(x, w, v, log_s, log_sigma):
    """The same with the expectation over z in closed form: (n, d) -> (n,), nats."""
    mu, sigma = x @ v.T, log_sigma.exp().expand(len(x), -1)  # (n, k)
    square = (x - mu @ w.T).square().sum(-1) + (w * log_sigma.exp()).square().sum()  # (n,)
    log_norm = 0.5 * x.shape[1] * (math.log(2 * math.pi) + 2 * log_s)
    return -0.5 * square / (2 * log_s).exp() - log_norm - gaussian_kl(mu, sigma)


def exact_log_likelihood(x, w, log_s):
    """log N(x; 0, W W^T + s^2 I): (n, d) -> (n,), nats."""
    covariance = w @ w.T + (2 * log_s).exp() * torch.eye(len(w), device=w.device)
    return dist.MultivariateNormal(torch.zeros_like(x[0]), covariance).log_prob(x)

# %% slideshow={"slide_type": "subslide"}
w, v = 0.1 * torch.randn(49, 2, device=device), 0.1 * torch.randn(2, 49, device=device)
linear = [w, v, torch.tensor(-1.0, device=device), torch.zeros(2, device=device)]
w, v, log_s, log_sigma = linear = [part.requires_grad_() for part in linear]
adam = torch.optim.Adam(linear, fused=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 0.01, total_steps=LINEAR_STEPS)
curve = {"ELBO": [], "exact log likelihood of this model": []}
shown = bar(minibatches(small, 500, LINEAR_STEPS), total=LINEAR_STEPS)
for step, x in enumerate(shown, 1):
    descend(adam, -linear_elbo(x, *linear).mean())
    schedule.step()
    if step % 50 == 0:
        with torch.no_grad():
            reached = linear_elbo_exact(small, *linear).mean().item()
            exact = exact_log_likelihood(small, w, log_s).mean().item()
        for values, value in zip(curve.values(), (reached, exact), strict=True):
            values.append(value)
        shown.set_postfix(loss=f"{-reached:.2f}", refresh=False)

# %%
with torch.no_grad():
    reached = linear_elbo_exact(small, *linear).mean().item()
    exact = exact_log_likelihood(small, w, log_s).mean().item()
print(f"ELBO {reached:.4f} <= log likelihood {exact:.4f} <= best {best:.4f} nats")
assert reached <= exact + 1e-3 and exact <= best + 1e-3
assert best - reached < 0.05, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The ELBO is within 0.05 nats per digit of the exact log likelihood, *and* of the best that any
# probabilistic PCA can reach. And the posterior? To compare, we need the exact one.
#
# ### Exercise 2: the exact posterior (20 minutes)
# Derive $p(z \mid x)$ of the linear model, and code it. Data `x` `(n, d)` has $m = 0$, `w` is
# `(d, k)`, the noise's standard deviation `s` is a float. Return two tensors: the means `(n, k)`,
# and the covariance `(k, k)`, which is the same for all rows.

# %% tags=["exercise"]
def my_ppca_posterior(x, w, s):
    return ...  # replace this by your code: mean, covariance


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
def course_ppca_posterior(x, w, s):
    big_m = w.T @ w + s**2 * torch.eye(w.shape[1], dtype=w.dtype)
    mean = x @ torch.linalg.solve(big_m, w.T).T
    return mean, s**2 * torch.linalg.inv(big_m)


assert checks.check_ppca_posterior(course_ppca_posterior)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now compare $q(z \mid x)$ with it: yours, if it has passed.

# %%
passed = checks.check_ppca_posterior(my_ppca_posterior)
posterior = my_ppca_posterior if passed else course_ppca_posterior
found = posterior(small.cpu(), w.detach().cpu(), log_s.exp().item())
exact_mean, covariance = (torch.as_tensor(part).float() for part in found)
guide_mean, guide_sd = (small @ v.T).detach().cpu(), log_sigma.detach().exp().cpu()
mean_error = (guide_mean - exact_mean).square().mean().sqrt().item()
exact_sd = covariance.diagonal().sqrt()
print("standard deviations: guide", guide_sd.numpy().round(3))
print("                     exact", exact_sd.numpy().round(3))

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "linear",
    "yes, mean and width",
    "The ELBO is largest where $q$ is the exact posterior, if $q$ can be that.",
)
assert mean_error < 0.1, EXPECTED
assert (guide_sd / exact_sd - 1).abs().max() < 0.1, EXPECTED

# %% alt="Left: ELBO and exact log likelihood climb together to a dashed line, the best possible. Right: ellipses of the exact posterior and of the guide for eight digits lie on top of each other." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(10, 4))
plot_loss(curve, xlabel="step / 50", ylabel="nats per digit", floor=best, ax=axes[0])
axes[0].set_ylim(best - 8, best + 1)
turn = torch.linspace(0, 2 * math.pi, 60)
circle = torch.stack([turn.cos(), turn.sin()], -1)  # one standard deviation
for row in range(8):
    true = exact_mean[row] + circle @ torch.linalg.cholesky(covariance).T
    ours = guide_mean[row] + circle * guide_sd
    axes[1].plot(*true.T, color=PALETTE["orange"], label="exact posterior" if row == 0 else None)
    axes[1].plot(*ours.T, "--", color=PALETTE["blue"], label="guide" if row == 0 else None)
axes[1].set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", title="eight digits, 1 sd")
_ = axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)

# %% [markdown]
# Left: both curves climb to the dashed optimum, the ELBO from below. Right: guide and exact
# posterior of eight digits. The encoder even turned the axes of $z$ so that the exact posterior
# became diagonal, because only then can a diagonal $q$ be exact (Lucas et al. 2019).

# %% tags=["nbval-check-output", "mistake-V2"]
rebuilt, variance = 0.9 * grey_test[:50] + 0.05, d / 2000
loss = 1000 * (grey_test[:50] - rebuilt).square().mean(-1)  # (50,)
log_density = dist.Normal(rebuilt, variance**0.5).log_prob(grey_test[:50]).sum(-1)
left_out = 0.5 * d * math.log(2 * math.pi * variance)
print(f"variance {variance:.3f}; constant left out of the loss: {left_out:.1f} nats per image")
assert torch.allclose(loss + left_out, -log_density, rtol=1e-4)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The loss and the stated likelihood must belong together. Only then is the number an ELBO.
#
# ### Exercise 9: grey pixels done right (30 minutes)
# A density on grey pixels is possible: the **continuous Bernoulli** (Loaiza-Ganem and Cunningham
# 2019), $p(x \mid \lambda) = C(\lambda)\, \lambda^x (1 - \lambda)^{1-x}$ for $x$ in $[0, 1]$. The
# constant $C(\lambda)$ makes its integral 1; find it.
#
# Write its log density in PyTorch, for grey `x` and `logits` $= \log\frac{\lambda}{1-\lambda}$,
# both `(n, d)`, summed over pixels: `(n,)`, nats. Networks train in 32 bits and meet logits of 0
# and of ±100: the values must be right there, too, and so must the gradients.

# %% tags=["exercise"]
def my_continuous_bernoulli(x, logits):
    return ...  # replace this by your code


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
# The ELBO is an expectation over $q_\phi$, and we need its gradient with respect to $\phi$, the
# parameters of the distribution that we draw from. **Question:** how does a gradient get past a
# random draw? There are two answers.
#
# *Score function* (REINFORCE): keep the draw fixed and move its log probability,
#
# $$ \nabla_\mu E_q[f(z)] = E_q\big[f(z)\, \nabla_\mu \log q(z)\big] =
# E_q\Big[f(z)\, \frac{z - \mu}{\sigma^2}\Big] . $$
#
# *Reparametrisation*: write the draw as a deterministic function of noise that has no parameters,
#
# $$ z = z_\mu + z_\sigma\, \varepsilon, \quad \varepsilon \sim N(0, I) \qquad\Rightarrow\qquad
# \nabla_\mu E_q[f(z)] = E_\varepsilon\big[\nabla_z f(z)\big]. $$
#
# Both are unbiased. The first uses only the *value* of $f$, the second its *slope*.
#
# The linear VAE gives a test bench with a known answer. Take one digit, its guide, and $f(z) = \log
# p(x \mid z)$; then $\nabla_\mu E_q[f] = W^\top(x - W\mu)/s^2$ exactly. The score function is also
# given its usual crutch, a *baseline*: subtracting a constant from $f$ leaves the expectation alone
# and calms the noise. (Our constant is the mean of the same draws. It is not quite one: it makes
# the gradient too small by a factor of $1 - 1/S$, which nobody sees with thousands of draws. The
# mean of the *other* draws would be unbiased.)
#
# **Predict first:** how many draws of the first, without a baseline, are worth one draw of the
# second?

# %%
predict("draws", "one: both are unbiased", "about five", "more than twenty")

# %%
def gradients(x, w, s, mu, sigma, draws):
    """Single-draw estimates of the gradient for mu of E[log p(x | z)], each (draws, k)."""
    z = mu + sigma * torch.randn(draws, len(mu), device=mu.device)
    f = dist.Normal(z @ w.T, s).log_prob(x).sum(-1, keepdim=True)  # (draws, 1)
    score = (z - mu) / sigma**2
    return {
        "score function": f * score,
        "score function, baseline": (f - f.mean()) * score,
        "reparametrised": (x - z @ w.T) @ w / s**2,
    }

# %% slideshow={"slide_type": "subslide"}
w_fit, s_fit = w.detach(), log_s.detach().exp()
mu, sigma = guide_mean[0].to(device), guide_sd.to(device)
estimates = gradients(small[0], w_fit, s_fit, mu, sigma, 20_000)
exact_gradient = w_fit.T @ (small[0] - w_fit @ mu) / s_fit**2
spread = {}
for name, values in estimates.items():
    mean, error = mean_and_error(values)
    assert ((mean - exact_gradient).abs() < 6 * error + 1e-3).all(), name  # unbiased
    spread[name] = values.std(0).norm().item()
    print(f"{name:26s} standard deviation of one draw {spread[name]:8.1f}")

# %% alt="Standard deviation of the mean gradient against the number of draws, both logarithmic: three parallel falling lines; the score function far above, with baseline lower, reparametrised lowest; dots lie on the lines." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
sizes = torch.tensor([1, 10, 100, 1000])
fig, ax = plt.subplots()
for name, values in estimates.items():
    means = [values.view(-1, size, 2).mean(1) for size in sizes]  # disjoint groups of draws
    measured = torch.stack([mean.std(0).norm() for mean in means]).cpu()
    (line,) = ax.loglog(sizes, spread[name] / sizes.sqrt(), label=name)
    ax.loglog(sizes, measured, "o", color=line.get_color())
    relative = measured * sizes.sqrt() / spread[name]
    assert ((0.5 < relative) & (relative < 2)).all(), name
ax.set(xlabel="draws $S$", ylabel="standard deviation of the mean gradient")
_ = ax.legend()

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
ratio = (spread["score function"] / spread["reparametrised"]) ** 2
ratio_baseline = (spread["score function, baseline"] / spread["reparametrised"]) ** 2
answer(
    "draws",
    "more than twenty",
    f"Here {ratio:.0f}. With the baseline it is {ratio_baseline:.1f}, which is the fair number.",
)
assert ratio > 20 and ratio_baseline > 1, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The dots are measured: the standard deviation of means over separate groups of $S$ draws. The
# lines are theory, $1/\sqrt{S}$ times the spread of one draw, and the dots follow them. All three
# estimators also pass the test of the exact gradient. The distance between the lines is the price
# of ignoring the slope. The number without a baseline means little: it changes if grey values are
# counted from 0 to 255, which adds a constant to $f$. This is a friendly case, with $k = 2$. For
# discrete $z$, where there is no slope, the score function remains useful.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 12 A sharper bound
# Two latent dimensions are for looking. For quality we take 32, and a function that can be copied
# into other work. It needs the networks of section 7 and the scores that we now define: `elbo`, its
# two parts in `terms`, and a sharper bound.
#
# ### A bound that can be tightened
# The ELBO is not the log likelihood. How far below is it? Importance sampling tells. With $K$ draws
# $z_s \sim q_\phi(z \mid x)$,
#
# $$ L_K = E\Big[\log \frac1K \sum_{s=1}^{K} w_s \Big], \qquad
# w_s = \frac{p_\theta(x \mid z_s)\, p(z_s)}{q_\phi(z_s \mid x)} . $$
#
# Here $K$ counts draws (Burda et al. 2016 write $k$); the latent dimension is the small $k$. $L_1$
# is the ELBO. On average every further draw raises the bound, and $L_K \to \log p_\theta(x)$. This
# is the brute force of section 3 with draws from the right place.
#
# Why a bound? Each weight has the mean $E_q[w_s] = \int p(x \mid z)\, p(z)\, dz = p(x)$, so by
# Jensen's inequality $L_K = E[\log \text{average}] \le \log E[\text{average}] = \log p(x)$. An
# average of more weights fluctuates less, which closes the gap. When all weights are equal, $q$
# *is* the posterior, and one draw gives the exact answer. So the distance between $L_1$ and
# $L_{500}$ is at most the distance $\text{KL}(q(z) \| p(z \mid x))$ of $q$ from the posterior. How
# much of it is still missing, 500 draws cannot tell.
#
# ### Exercise 7: write the importance-weighted bound (15 minutes)
# Write $L_K$ for a VAE, images `x` `(n, d)` and `draws` $= K$: one estimate per image, `(n,)`, in
# nats. You have `vae.posterior`, `vae.decoder` and `log_bernoulli(x, logits)`, which takes logits
# `(draws, n, d)`, too. With 784 pixels, $\log p(x \mid z)$ can be −1,000: that must not break it.
# The check knows the limits: the ELBO for $K = 1$, and the exact $\log p(x)$ of a small VAE for
# large $K$.

# %% tags=["exercise"]
def my_bound(vae, x, draws):
    return ...  # replace this by your code


checks.check_importance_bound(my_bound)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `q = dist.Normal(mu, sigma)` has `q.sample((draws,))`, of shape `(draws, n, k)`, and
# `q.log_prob(z)`. Add up log densities to $\log w_s$, one number per draw and image.
#
# </details>
# <details><summary>Hint 2</summary>
#
# $\exp(-1000)$ is 0 for a computer. Section 3 took such sums in logarithms.
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

# %%
bounds[500] = vae.bound(x_test, 500).mean().item()
print(f"bound with 500 draws {bounds[500]:.1f} nats")

# %% alt="The bound against the number of draws, logarithmic: it rises from the dashed line of the ELBO at one draw to about four nats above it at 500 draws, ever more slowly." jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(6, 3.5))
ax.semilogx(list(bounds), list(bounds.values()), "o-", label="bound $L_K$")
ax.axhline(elbo.mean().item(), linestyle="--", color=PALETTE["black"], label="ELBO")
ax.set(xlabel="draws $K$", ylabel="nats per test image")
_ = ax.legend()

# %% tags=["answer", "mistake-V8"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "above the ELBO",
    "a few nats",
    "The bound rises with more draws, and ever more slowly: the log likelihood is some four nats "
    "above the ELBO, or more.",
)
assert -101 < elbo.mean() < -95, EXPECTED
assert abs(bounds[1] - elbo.mean()) < 0.5
assert bounds[1] < bounds[5] < bounds[50] < bounds[500] < -floor

# %% [markdown] slideshow={"slide_type": "subslide"}
# Calling the ELBO "the likelihood" would sell the model below its worth, and compare it unfairly
# with models whose likelihood is exact, such as flows. Now the numbers side by side:

# %% tags=["mistake-D5"] jupyter={"source_hidden": true}
rows = [
    ("pixel frequencies", "16,000", constant, constant),
    ("this notebook, k = 2, in Pyro", "16,000", flat_elbo, math.nan),
    (f"this notebook, k = {LATENT}", "16,000", elbo.mean().item(), bounds[500]),
    ("published VAE, k = 50 (Burda et al. 2016), hours", "60,000", math.nan, -86.76),
    ("published IWAE, K = 50, k = 50 (same)", "60,000", math.nan, -84.78),
    ("noise of sampled binarisation: nobody gets above", "", math.nan, -floor),
]
head = "| model | training digits | test ELBO | K = 500 bound |\n| --- | --- | --- | --- |\n"
lines = [f"| {a} | {b} | {c:.1f} | {e:.1f} |" for a, b, c, e in rows]
display(Markdown(head + "\n".join(lines).replace("nan", "–")))
assert rows[0][2] < rows[1][2] < rows[2][2] < rows[-1][3], EXPECTED  # ours lie in between

# %% tags=["slides"] slideshow={"slide_type": "skip"}
publish(
    two_latents=f"{flat_elbo:.1f}",
    more_latents=f"{elbo.mean():.1f}",
    bound=f"{bounds[500]:.1f}",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# All rows: MNIST test digits with **sampled binarisation**, nats per image (ours: all 2,000 bundled
# test digits; published: all 10,000, bound with 5,000 draws). The published models saw more digits.
# A bound computed with more draws is higher, so bounds of two papers compare only if $K$ is the
# same. Fits of ours with 50,000 digits, a wider network and more steps, scored on all 10,000 test
# digits (`benchmarks/all_of_mnist.py`):
#
# {{all of MNIST}}

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Where do the missing nats go?
# The gap is $\text{KL}(q_\phi(z \mid x) \| p_\theta(z \mid x))$. Part of it is the Gaussian shape
# of $q$, part is **amortisation**: one network for all images. To separate them, give 200 test
# digits a $z_\mu$ and $z_\sigma$ of their own, started at the encoder's answer and improved by
# gradient ascent. The decoder is not touched.

# %%
few = x_test[:200]
with torch.no_grad():
    start = vae.posterior(few)
own = [start[0].clone().requires_grad_(), start[1].log().requires_grad_()]  # mean, log sd
adam = torch.optim.Adam(own, 0.02)
for _ in (shown := bar(range(200))):
    z = own[0] + own[1].exp() * torch.randn(4, *own[0].shape, device=device)
    distortion = -log_bernoulli(few, vae.decoder(z)).mean(0)
    loss = (distortion + gaussian_kl(own[0], own[1].exp())).sum()
    descend(adam, loss)
    shown.set_postfix(loss=f"{loss.item() / len(few):.1f}", refresh=False)

# %%
@torch.no_grad()
def elbo_of(mu, sigma, x, draws=50):
    """ELBO of the decoder of ``vae`` with a given Gaussian q, in nats, (n,)."""
    total = 0
    for _ in bar(range(draws), desc="draws"):
        total = total - log_bernoulli(x, vae.decoder(mu + sigma * torch.randn_like(mu)))
    return -(total / draws + gaussian_kl(mu, sigma))


amortised = elbo_of(*start, few)
individual = elbo_of(own[0].detach(), own[1].detach().exp(), few)
gain, gain_error = mean_and_error(individual - amortised)
total = vae.bound(few, 500).mean() - amortised.mean()
print(f"gap at least {total:.2f} nats, of which amortisation {gain:.2f} ± {gain_error:.2f}")
assert total / 2 < gain < total, EXPECTED

# %% [markdown]
# More than half of the gap on new digits, as far as 500 draws show it, is amortisation: the
# encoder, not the Gaussian, is the weak part (Cremer et al. 2018). Two remedies follow from the
# diagnosis: a better encoder, or a few gradient steps per image when a single image matters. With
# this decoder, a more flexible $q$ could close what is left.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 13 Which latents work?

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Which latents work?
# A latent that the encoder ignores has the same mean for every image. Burda et al. call a latent
# (they say "unit") **active** if its posterior mean $z_\mu(x)$ has a variance of more than 0.01,
# taken over images.
#
# ### Exercise 8: count the active units (5 minutes)
# Return how many latents of a VAE are active, judged by images `x` `(n, d)`.

# %% tags=["exercise"]
def my_active_units(vae, x):
    return ...  # replace this by your code


checks.check_active_units(my_active_units)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Why of the *mean*, and not of draws? A dead latent has draws of variance 1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A comparison gives truth values, and these can be summed.
#
# </details>

# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
@torch.no_grad()
def active_units(vae, x):
    """Number of latents whose posterior mean varies over the images with variance over 0.01."""
    mu, _ = vae.posterior(x)
    return int((mu.var(0) > 0.01).sum())


course_active_units = active_units
assert checks.check_active_units(active_units)

# %% tags=["mistake-V10"]
passed = checks.check_active_units(my_active_units)
active_units = my_active_units if passed else course_active_units
active = int(active_units(vae, x_test))
print(f"{active} of {LATENT} latents are active")
assert 12 <= active < LATENT, EXPECTED

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 14 Why samples are worse than reconstructions
# A reconstruction decodes a $z$ of $q(z \mid x)$, a sample a $z$ of the prior. The decoder was
# trained on the first kind: on the aggregate posterior $\bar q(z)$, the average of $q(z \mid x)$
# over images. The rate holds the difference (Hoffman and Johnson 2016):
#
# $$ E_x\,\text{KL}\big(q(z \mid x)\,\|\,p(z)\big) = \underbrace{E_x\,\text{KL}\big(q(z \mid
# x)\,\|\,\bar q(z)\big)}_{\text{mutual information } I(x; z)} + \text{KL}\big(\bar q(z)\,\|\,
# p(z)\big). $$
#
# The first part buys information about $x$. The second is waste: the price of a prior that is not
# $\bar q$.
#
# ### How much is waste?
# Take $\bar q$ as the mean over $N$ digits, one of which gave $z$. It is at least
# $q(z \mid x) / N$: so this estimate of $I$ cannot exceed $\log N$, however much a code tells.

# %%
@torch.no_grad()
def log_aggregate(z, mu, sigma):
    """Log mean of the N Gaussians (N, k) at z (b, k): -> (b,), nats."""
    precision, constants = sigma**-2, (mu**2 / sigma**2 + 2 * sigma.log()).sum(-1)
    square = z.square() @ precision.T - 2 * z @ (mu * precision).T + constants  # (b, N)
    size = z.shape[-1] * math.log(2 * math.pi)
    return (-0.5 * (square + size)).logsumexp(-1) - math.log(len(mu))


with torch.no_grad():
    codes = vae.posterior(binarise(grey_train))  # mean and standard deviation, both (n, k)
    test_codes = vae.posterior(x_test)


# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
def split_rate(mu, sigma, others, rows=1000):
    """Log ratios q(z | x) / p(z) and q(z | x) / mean of the others, one draw per row: (rows,)."""
    q = dist.Normal(mu[:rows], sigma[:rows])
    z = q.sample()
    log_q, unit = q.log_prob(z).sum(-1), dist.Normal(torch.zeros_like(z), 1.0)
    return log_q - unit.log_prob(z).sum(-1), log_q - log_aggregate(z, *others)


for name, pair in {"training": codes, "test": test_codes}.items():
    paid, told = split_rate(*pair, pair)
    ceiling = math.log(len(pair[0]))
    (paid, paid_error), (told, told_error) = mean_and_error(paid), mean_and_error(told)
    print(f"{name} digits: rate {paid:.2f} ± {paid_error:.2f}, I {told:.3f} ± {told_error:.3f} "
          f"(log N = {ceiling:.3f}), waste {paid - told:.1f} nats")  # fmt: skip
    assert ceiling - 0.3 < told < ceiling + 1e-3, EXPECTED  # saturated
unseen = split_rate(*test_codes, codes)[1].mean().item()
print(f"test codes under the mean of the training digits: {unseen:.1f} nats, no bound by log N")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Both estimates sit at their ceiling: nearly every code points to its own digit. So $I$ is about
# $\log N$ or more, and the waste at most about what is printed. From the other side: any density
# $r(z)$ as prior costs $I + \text{KL}(\bar q \,\|\, r) \ge I$. What a learnt prior saves on new
# digits was waste. (The mean over training digits is a bad $r$: it remembers their codes, as the
# last line shows.)
#
# **Predict first:** keep encoder and decoder, learn the prior. By how much does the test ELBO rise?

# %%
predict("learnt prior", "less than half a nat", "about two nats", "more than ten nats")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 12: learn a prior (20 minutes)
# Digit $i$ has $q(z \mid x_i) = N(\mu_i, \operatorname{diag} \sigma_i^2)$; `mu` and `sigma` are
# `(n, k)`. Fit a density to the codes: a mixture of full-covariance Gaussians
# (`dist.MixtureSameFamily`, by EM or gradient steps) or a flow from `dist.transforms`. Return an
# object with `log_prob(z)`, `(b, k)` → `(b,)`, and `sample((s,))`, `(s, k)`. The check knows the
# density of its codes.


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
# <details><summary>Hint 3</summary>
#
# A flow for *fitting* needs a fast way from $z$ back to noise. `affine_autoregressive(k).inv` has
# it; without `.inv`, its fast way is the one for drawing.
#
# </details>

# %% [markdown] slideshow={"slide_type": "subslide"}
# The course's own versions are folded: thirty Gaussians by EM, with codes drawn anew in each round,
# and two autoregressive layers.


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
    epochs = itertools.repeat(DataLoader(grey, batch, shuffle=True))  # as many as needed
    batches = itertools.islice(itertools.chain.from_iterable(epochs), steps)
    for x in map(binarise, bar(batches, total=steps, desc="together")):
        q = dist.Normal(*vae.posterior(x))
        z = q.rsample()
        rate = q.log_prob(z).sum(-1) - mixture(logits, means, roots).log_prob(z)
        loss = (rate - log_bernoulli(x, vae.decoder(z))).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return vae, mixture(logits.detach(), means.detach(), roots.detach())


# %% slideshow={"slide_type": "subslide"}
def mixture(logits, means, roots):
    """Mixture of Gaussians with covariances L Lᵀ; L the lower triangle of a root (c, k, k)."""
    size = roots.diagonal(dim1=-2, dim2=-1).abs().diag_embed()
    normal = dist.MultivariateNormal(means, scale_tril=roots.tril(-1) + size)
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), normal)


unit = dist.Normal(torch.zeros(LATENT, device=device), 1.0).to_event(1)
priors = {"N(0, I)": unit, "mixture": mixture_prior(*codes), "flow": flow_prior(*codes)}
if checks.check_learnt_prior(my_prior):
    priors["yours"] = my_prior(*codes)

# %% slideshow={"slide_type": "subslide"}
later_vae, later_prior = train_together(vae, priors["mixture"], grey_train)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The same draws and decodings serve all priors of a decoder, so differences are paired.


# %%
@torch.no_grad()
def prior_scores(vae, priors, x, draws):
    """ELBO and bound with so many draws for each prior: (n, d) -> name: (2, n), nats."""
    found = {name: [] for name in priors}
    for rows in x.split(max(1, 10_000 // draws)):
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
        gain = scores[name] - scores["N(0, I)"]
        cells += ["{:.1f} ± {:.1f}".format(*mean_and_error(scores[name]))]
        cells += ["{:+.2f} ± {:.2f}".format(*mean_and_error(gain))]
    lines.append(" | ".join(["", name, *cells, ""]))
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
    "about two nats",
    "Far less than the waste printed above: that is an upper limit, set by the ceiling log N.",
)
assert 1 < gains["mixture"] < 5, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# ELBO: all test digits; bound: the first 100. ± is over digits, gains are against $N(0, I)$ on the
# same digits. The last row has also trained longer. Five seeds, all test digits, and a control with
# as many steps more but without a learnt prior (`benchmarks/learnt_priors.py`):
#
# {{learnt priors}}

# %% alt="Five squares of 64 drawn digits. Those from N(0, I) have many blends and broken strokes; those of the learnt priors have fewer; those decoded from codes of training digits are nearly all clear." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
seed_everything(SEED)
panels = {f"z from {name}": (vae, prior.sample((64,))) for name, prior in priors.items()}
panels["mixture, trained together"] = later_vae, later_prior.sample((64,))
panels["z from the aggregate posterior"] = vae, dist.Normal(*codes).sample()[:64]
fig, axes = plt.subplots(2, 3, figsize=(9.5, 6.6))
for ax in axes.flat[len(panels) :]:
    ax.axis("off")
for ax, (name, (network, z)) in zip(axes.flat, panels.items(), strict=False):
    with torch.no_grad():
        z = torch.as_tensor(z).to(x_test)
        plot_images(network.decoder(z).sigmoid(), rows=8, ax=ax).set_title(name)

# %% [markdown]
# All are pixel means. Draws from the aggregate posterior *are* reconstructions. The learnt priors
# come closer to them than $N(0, I)$, with the same decoder.

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

    def log_joint(z):
        log_pixels = log_bernoulli(x[seen], vae.decoder(z)[..., seen])
        return log_pixels + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)

    with torch.no_grad():
        mu, sigma = vae.posterior((x * seen).expand(starts, -1))  # (starts, k)
    mu = (mu + torch.randn_like(mu)).requires_grad_()
    log_sigma = sigma.log().requires_grad_()
    optimiser = torch.optim.Adam([mu, log_sigma], 0.05)
    for _ in range(steps):  # the bound of each start, with two draws
        q = dist.Normal(mu, log_sigma.exp())
        z = q.rsample((2,))
        loss = (q.log_prob(z).sum(-1) - log_joint(z)).mean(0).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        normal = dist.Normal(mu, 1.2 * log_sigma.exp()).to_event(1)
        q = dist.MixtureSameFamily(dist.Categorical(torch.ones(starts).to(mu)), normal)
        z = q.sample((tries,))
        weight = (log_joint(z) - q.log_prob(z)).softmax(0)
        return z[weight.multinomial(draws, replacement=True)], (1 / weight.square().sum()).item()


course_completions = completions
assert checks.check_completions(completions)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Eight test digits, sixty completions each. Their spread (the standard deviation of a pixel's mean
# over completions, averaged over the lower half) picks the two to show.

# %%
passed = checks.check_completions(my_completions)
completions = my_completions if passed else course_completions
seen, eight = torch.arange(d, device=device) < d // 2, x_test[:8]
found = [completions(vae, x, seen, 60) for x in bar(eight, desc="digits")]
with torch.no_grad():
    lower = torch.stack([vae.decoder(torch.as_tensor(z).to(x_test)).sigmoid() for z, _ in found])
spread = lower[..., ~seen].std(1).mean(-1)  # (8,)
sizes = [float(size) for _, size in found]
certain, open_digit = int(spread.argmin()), int(spread.argmax())
assert spread.max() > 1.5 * spread.min(), EXPECTED

# %% jupyter={"source_hidden": true}
with torch.no_grad():  # the encoder alone, for comparison
    q = dist.Normal(*vae.posterior(eight * seen))
    z = q.sample((2000,))  # (2000, 8, k)
    log_weight = log_bernoulli(eight[:, seen], vae.decoder(z)[..., seen])
    log_weight += (dist.Normal(0.0, 1.0).log_prob(z) - q.log_prob(z)).sum(-1)
    weight = log_weight.softmax(0)
encoder_sizes = (1 / weight.square().sum(0)).tolist()
for name, values in {"encoder's q": encoder_sizes, "improved": sizes}.items():
    print(f"effective sample size, {name}: {min(values):.0f} to {max(values):.0f}, "
          f"median {torch.tensor(values).median():.0f}")  # fmt: skip
if completions is course_completions:
    assert torch.tensor(sizes).median() > 2 * torch.tensor(encoder_sizes).median(), EXPECTED

# %% alt="Two rows of images. In each: the upper half of a digit, ten completions, and the whole digit. The completions of the upper row look nearly alike, those of the lower row are of several kinds." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(2, 1, figsize=(8.5, 2.2))
for ax, row in zip(axes, (certain, open_digit), strict=True):
    half = x_test[row] * seen
    drawn_halves = torch.where(seen, x_test[row], lower[row][:10])
    plot_images(torch.cat([half[None], drawn_halves, x_test[row][None]]), rows=1, ax=ax)
    ax.set_title(f"seen · ten completions (pixel means) · truth; spread {spread[row]:.2f}, "
                 f"effective sample size {sizes[row]:.0f}", loc="left", fontsize=9)  # fmt: skip

# %% [markdown]
# One upper half leaves nearly one possibility, the other several. That is what a posterior is for.
# The honest part is the effective size: of two thousand draws only so many count. A small one means
# that kinds may be missing; equal images in a row are one draw, taken often.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 16 Honest uncertainty
# Does the encoder's $z_\sigma$ know that an image is damaged? Flip one pixel in ten, or erase the
# lower half: to white, nothing is marked as hidden. With $k = 2$ the posterior is known:
# $p(z \mid x) \propto p(x \mid z)\, p(z)$ on a grid. In between stands a Gaussian optimised for
# each image (own $q$). **Predict first:** what does flipping pixels do to the width of the *exact*
# posterior?

# %%
predict("damage", "it widens", "it hardly changes", "it narrows")

# %%
clean = x_test[:60]
flips = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0)).to(device) < 0.1
damaged = {"clean": clean, "10 % flipped": torch.where(flips, 1 - clean, clean)}
damaged["lower half erased"] = clean * (torch.arange(d, device=device) < d // 2)
images = torch.cat([*damaged.values()])  # (180, d)
with torch.no_grad():
    amortised_mu, amortised_sigma = flat.posterior(images)


# %%
@torch.no_grad()
def exact_sigma(vae, x, reach=6.0, points=261):
    """Posterior standard deviations of a two-dimensional VAE by quadrature: (n, d) -> (n, 2)."""
    axis = torch.linspace(-reach, reach, points, device=x.device)
    z = torch.cartesian_prod(axis, axis)  # (g, 2)
    log_joint = []
    for part in z.split(5000):
        logits = vae.decoder(part)  # log p(x | z) = x · logits - sum of softplus
        log_joint.append(logits @ x.T - F.softplus(logits).sum(-1, keepdim=True))
    weight = (torch.cat(log_joint) - 0.5 * z.square().sum(-1, keepdim=True)).softmax(0)  # (g, n)
    mean = weight.T @ z  # (n, 2)
    return (weight.T @ z.square() - mean.square()).clamp(min=0).sqrt()


exact = exact_sigma(flat, images)

# %% jupyter={"source_hidden": true}
own_mu = amortised_mu.clone().requires_grad_()
own_log_sigma = amortised_sigma.log().requires_grad_()
optimiser = torch.optim.Adam([own_mu, own_log_sigma], 0.03)
for _ in bar(range(100), desc="own q"):
    z = own_mu + own_log_sigma.exp() * torch.randn(2, *own_mu.shape, device=device)
    price = gaussian_kl(own_mu, own_log_sigma.exp())
    loss = (price - log_bernoulli(images, flat.decoder(z)).mean(0)).sum()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %% tags=["mistake-V14"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
columns = {"encoder": amortised_sigma, "own q": own_log_sigma.detach().exp(), "exact": exact}
widths = {name: v.reshape(3, -1).median(1).values.tolist() for name, v in columns.items()}
for row, damage in enumerate(damaged):
    print(f"{damage:18s}", *(f"{name} {values[row]:.3f}  " for name, values in widths.items()))
assert widths["exact"][1] < widths["exact"][0] < widths["exact"][2], EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "damage",
    "it narrows",
    "To the likelihood, a flip is evidence like any other pixel: the model knows no wrong ones.",
)
assert widths["encoder"][1] > 1.2 * widths["exact"][1], EXPECTED  # the network hardly reacts

# %% [markdown]
# These are medians over images and both latents. After flips the encoder is wider than the exact
# posterior: it does not follow.
# Amortised uncertainty is what a network learnt from undamaged images; nobody asked it
# about others. And even the exact posterior is honest only about $z$, *if* the model is true: a
# damage that the likelihood does not know can make it surer. Do not use $z_\sigma$ as a measure of
# damage.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 17 The dial β
# Let us weigh the rate: loss $= \text{distortion} + \beta \cdot \text{rate}$. With a small $\beta$
# codes may cost more, and reconstructions get better. With a large one codes get cheaper (Higgins
# et al. 2017; Alemi et al. 2018). To keep it short, each β gets a smaller network, 4,000 digits and
# ten latents. **Predict first:** which β has the best ELBO on *test* digits?

# %%
predict("dial", "one below 1", "1", "one above 1")

# %%
setting = {"k": 10, "seed": SEED, "hidden": 200, "batch": 100, "steps": DIAL_STEPS, "lr": 5e-3}
dial = {beta: fit_vae(grey_train[:DIAL_DIGITS], x_val, beta=beta, **setting) for beta in DIAL}
points = {beta: [term.mean().item() for term in m.terms(x_test)] for beta, m in dial.items()}
units = {beta: int(active_units(m, x_test)) for beta, m in dial.items()}

# %% alt="Left: distortion falls as the rate grows, along a bent curve from β = 10 at the upper left to β = 0.1 at the lower right. Right: the ELBO peaks at β = 1; the number of active units falls for larger β." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, axes = plt.subplots(1, 2, figsize=(10, 4))
distortions, rates = zip(*points.values(), strict=True)
axes[0].plot(rates, distortions, "o-")
for beta, (distortion, rate) in points.items():
    axes[0].annotate(f"β = {beta:g}", (rate, distortion), (6, 4), textcoords="offset points")
axes[0].set(xlabel="rate (nats)", ylabel="distortion (nats)")
axes[0].margins(0.18)  # room for the words
axes[1].semilogx(DIAL, [-sum(pair) for pair in points.values()], "o-")
axes[1].set_xlabel("β")
axes[1].set_ylabel("test ELBO (nats per image)", color=PALETTE["blue"])
twin_axis = axes[1].twinx()
twin_axis.plot(DIAL, list(units.values()), "s--", color=PALETTE["orange"])
twin_axis.set_ylabel("active units", color=PALETTE["orange"])
twin_axis.set_ylim(0, 11)
twin_axis.grid(False)

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
slopes = [(d1 - d2) / (r2 - r1) for (d1, r1), (d2, r2) in itertools.pairwise(points.values())]
print("nats of distortion bought by one nat of rate:", [round(slope, 2) for slope in slopes])
print(f"without a code: {-constant:.0f} nats; below {floor:.0f} no sum can fall")
assert all(a > b for a, b in itertools.pairwise(rates)), EXPECTED
assert distortions[0] < distortions[-1], EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "dial",
    "1",
    "There the loss is minus the ELBO of the training digits. With a small β codes say more than "
    "they are worth, with a large one latents are switched off (orange).",
)
assert max(points, key=lambda beta: -sum(points[beta])) == 1.0, EXPECTED
assert units[DIAL[-1]] < units[1.0], EXPECTED

# %% [markdown]
# Read the left picture from the lower right to the upper left. At the lower right, codes are long
# and the decoder has little left to say; at the upper left, codes are short and the decoder has to
# guess. The two ends are known: with no code at all the distortion is that of the pixel
# frequencies, 206 nats, and with a code that holds every pixel it would be 0. Only the sum of both
# can never fall below the noise of the binarisation, 46 nats.
#
# A model is free to move along this rate–distortion curve, and β decides where it stops: at the
# point where one more nat of rate saves just β nats of distortion. The printed slopes show it:
# between two neighbouring values of β, the exchange rate lies between these two values, or close to
# one of them.
#
# Do not conclude that β = 1 gives the prettiest pictures. β is often raised to get latents that
# mean something to people, and lowered to get sharp reconstructions. Only, with
# β < 1 the number that you optimise is no longer a bound of the log likelihood, and with β > 1 it
# is a looser one. Neither must be called the ELBO.
#
# ### Collapse, provoked, detected, cured
# When *all* latents are off, the VAE has **collapsed**: the encoder says $N(0, I)$ whatever the
# image, the rate is 0, and the decoder draws the average digit. The bug of Exercise 5 does this. A
# mean over 784 pixels with a sum over latents is nothing but $\beta = 784$.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 18 Partially labelled
# **Question:** 16,000 images, but only 100 labels. Does it help to have learnt from the other
# images? Train the same linear classifier on the same 100 digits, ten of each kind, with three
# kinds of input: the pixels, the 32 posterior means (the codes), and the last hidden layer of the
# encoder, from which the codes are computed. All three come from the grey images, not binarised: so
# nothing in them is drawn at random. Repeat with five choices of the hundred.
#
# The classifier has a penalty on its weights, and a penalty depends on the scale of the input. So
# each kind of input is centred and divided by *one* number, such that its mean squared length is 1.
# **Predict first:** which of the three wins?

# %%
predict("labels", "the pixels", "the codes", "the hidden layer")

# %%
with torch.no_grad():
    code_means = [vae.posterior(x)[0].cpu() for x in (grey_train, grey_test)]
    hidden = [vae.encoder[:-1](x).cpu() for x in (grey_train, grey_test)]  # (n, 400)
inputs = {
    "pixels": (grey_train.cpu(), grey_test.cpu()),
    "codes": code_means,
    "hidden layer": hidden,
}
for name, (train, test) in inputs.items():
    middle = train.mean(0)
    length = (train - middle).square().sum(-1).mean().sqrt()
    inputs[name] = (train - middle) / length, (test - middle) / length

# %%
accuracy = {name: [] for name in inputs}
for seed in range(LABEL_SEEDS):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1000 * SEED + seed))
    kinds = digits.y_train[order]
    chosen = torch.cat([order[kinds == digit][: LABELS // 10] for digit in range(10)])
    for name, (train, test) in inputs.items():
        classifier = LogisticRegression(C=10, max_iter=2000)
        classifier.fit(train[chosen].numpy(), digits.y_train[chosen].numpy())
        accuracy[name].append(classifier.score(test.numpy(), digits.y_test.numpy()))

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
pixels = torch.tensor(accuracy["pixels"])
gains = {}
for name, values in accuracy.items():
    mean, error = mean_and_error(torch.tensor(values))
    gains[name], paired_error = mean_and_error(torch.tensor(values) - pixels)
    print(f"{name:12s} {mean:.1%} ± {error:.1%} right; "
          f"against pixels {gains[name]:+.1%} ± {paired_error:.1%} of the digits")  # fmt: skip
assert min(map(min, accuracy.values())) > 0.5, EXPECTED

# %% alt="One dot per choice of labels in three rows. Pixels and codes lie about equally far to the right; the hidden layer lies further right, with more digits classified correctly." jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(6, 3))
for place, values in enumerate(accuracy.values()):
    ax.plot(values, [place] * len(values), "o", alpha=0.7)
ax.set(xlabel="share of test digits right", yticks=range(3), yticklabels=list(accuracy))
ax.set_ylim(-0.5, 2.5)
_ = ax.set_title(f"one dot per choice of {LABELS} labels")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "labels",
    "the hidden layer",
    "The unlabelled digits do help, but not where most people look: the codes are no better for a "
    "linear classifier than plain pixels.",
)
assert gains["hidden layer"] > 0 and gains["codes"] < gains["hidden layer"], EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# Guessing scores 10 %. The *codes* are made to carry everything about the image in few nats, and
# the slant and the width of a stroke cost nats, too. The kind of digit is in there, but not along
# straight lines. The *hidden layer* before them, wider and not squeezed, holds the same learnt
# features in an easier form.
#
# One dot is one choice of labels. The choice alone moves the result by several percentage points,
# which is why one seed proves nothing and why the difference is taken *pair by pair*. The ± covers
# only this choice: all dots share one trained VAE. The classifier and its penalty are the same for
# all three. Semi-supervised VAEs go further and put the label into the model, as a latent that is
# sometimes observed (Kingma et al. 2014).

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 19 A warning
# A model of $p(x)$ seems to be a perfect alarm: what is unlikely is strange. Spoil the test digits
# in three ways: exchange black and white, shuffle the pixels, erase the lower half. **Predict
# first:** in which case does the ELBO hardly tell them from real digits?

# %%
predict("alarm", "black and white exchanged", "pixels shuffled", "lower half erased", "in none")

# %%
shuffle = torch.randperm(d, generator=torch.Generator().manual_seed(0)).to(device)
erased = x_test.clone()
erased[:, d // 2 :] = 0  # the lower 14 rows of pixels
strange = {
    "digits": x_test,
    "inverted": 1 - x_test,
    "shuffled": x_test[:, shuffle],
    "lower half erased": erased,
}
scores = {name: vae.elbo(images).cpu() for name, images in strange.items()}

# %% alt="ELBO of two thousand images of each kind, one dot each, in four rows. Digits and digits with the lower half erased cover the same range; shuffled lie far lower, inverted lowest." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, ax = plt.subplots()
for place, values in enumerate(scores.values()):
    ax.plot(values, place + 0.3 * (torch.rand(len(values)) - 0.5), ".", alpha=0.2, rasterized=True)
ax.set_xscale("symlog", linthresh=100)
ax.set(xlabel="ELBO (nats, logarithmic)", yticks=range(4), yticklabels=list(scores), xlim=(-2e4, 0))
_ = ax.set_title("to the right: 'more likely than digits'")

# %% slideshow={"slide_type": "subslide"}
def alarm_rate(strange_scores, digit_scores):
    """Probability that a strange image has a lower ELBO than a digit (area under the ROC curve)."""
    return (strange_scores[:, None] < digit_scores).float().mean().item()


works = {name: alarm_rate(values, scores["digits"]) for name, values in scores.items()}
for name, values in scores.items():
    print(f"{name:18s} {values.mean():8.1f} nats, alarm works in {works[name]:.0%}")

# %% tags=["answer", "mistake-V11"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "alarm",
    "lower half erased",
    "There the alarm is little better than a coin, although no training image looked like that.",
)
assert works["inverted"] > 0.99 and works["shuffled"] > 0.99, EXPECTED
assert 0.35 < works["lower half erased"] < 0.75, EXPECTED

# %% [markdown]
# What is missing costs nothing: likelihood rewards images that are *simple*, and simple is not the
# same as usual. Now leave the ones out of the training set, and ask for them. **Predict first:**
# will the model be surprised by a one?

# %%
predict("unseen ones", "yes: ones get the lowest ELBO", "not at all: they look like sevens",
        "on the contrary: they get a higher ELBO than other digits")  # fmt: skip

# %%
keep = (digits.y_train[:ALARM_DIGITS] != 1).to(device)
keep_val = (digits.y_val != 1).to(device)  # the weights are chosen without ones, too
without_ones = fit_vae(grey_train[:ALARM_DIGITS][keep], x_val[keep_val], **setting)
ones = digits.y_test == 1
score = without_ones.elbo(x_test).cpu()
rate_ones = alarm_rate(score[ones], score[~ones])
print(
    f"never seen: ones {score[ones].mean():.1f} nats; seen: others {score[~ones].mean():.1f} nats"
)
print(f"the alarm works in {rate_ones:.0%} of the cases")

# %% tags=["answer", "mistake-V11"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "unseen ones",
    "on the contrary: they get a higher ELBO than other digits",
    "The alarm works far less often than a coin would: a one has few black pixels and few ways to "
    "go wrong.",
)
assert rate_ones < 0.3, EXPECTED

# %% [markdown]
# Do not use the likelihood of a deep generative model as an alarm (Nalisnick et al. 2019)
# without a test on strange data of the kind you fear.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 20 What you saw

# %% jupyter={"source_hidden": true}
display(
    Markdown(f"""
- An autoencoder reconstructs; {empty:.0%} of the box around its codes holds no code at all.
- Brute force for $p(x)$ works for $k = 1$ and misses {missing[10_000][-1]:.0f} nats for $k = 16$.
- The ELBO of a linear VAE came within {best - reached:.2g} nats of the exact optimum.
- One reparametrised draw was worth {ratio_baseline:.1f} of the score function with a baseline, and
  {ratio:.0f} without.
- Two latents: test ELBO {flat_elbo:.1f}; {LATENT} latents: {elbo.mean():.1f} nats per image, and
  the bound with 500 draws {bounds[500]:.1f}.
- β = {d}, a mean over pixels in disguise, switches all latents off.
- With {LABELS} labels, the encoder's hidden layer beat pixels by {gains["hidden layer"]:.1%}
  of the test digits; the codes themselves: {gains["codes"]:+.1%}.
- A model that never saw a one ranks a one below another digit in only {rate_ones:.0%} of pairs.
""")
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### In practice
# - Write down the likelihood first, then prepare the data for it, and name the binarisation in
#   every table.
# - Sum over pixels and latents, average over images only. Check the closed form once by Monte
#   Carlo.
# - Start the last bias at the data's frequencies, use a learning-rate schedule, keep the best
#   weights by *validation* score, report the *test* ELBO with rate and distortion, and $L_{500}$
#   beside it.
# - Print rate and active units from the first epoch on: collapse is easy to see there, hard in the
#   loss.
# - Say of every picture: mean or sample, generated or reconstructed.
# - No good as an alarm without a test on strange data.
#
# ### On your own
# - *(30 minutes)* Take the warm-up out of `fit_vae`. How many units are active then?
# - *(30 minutes)* Replace the likelihood by the continuous Bernoulli and fit grey digits (change
#   `log_bernoulli`, `binarise`, `as_pixels`). Why can the score not be compared with any above?
# - *(60 minutes)* Train on the bound with $K = 5$ in place of the ELBO (an IWAE).
#
# ### Further reading
# - D. P. Kingma, M. Welling (2014). Auto-Encoding Variational Bayes.
#   [arXiv:1312.6114](https://arxiv.org/abs/1312.6114)
# - D. J. Rezende, S. Mohamed, D. Wierstra (2014). Stochastic Backpropagation and Approximate
#   Inference in Deep Generative Models. [arXiv:1401.4082](https://arxiv.org/abs/1401.4082)
# - Y. Burda, R. Grosse, R. Salakhutdinov (2016). Importance Weighted Autoencoders.
#   [arXiv:1509.00519](https://arxiv.org/abs/1509.00519)
# - M. E. Tipping, C. M. Bishop (1999). Probabilistic Principal Component Analysis.
#   [doi:10.1111/1467-9868.00196](https://doi.org/10.1111/1467-9868.00196)
# - J. Lucas, G. Tucker, R. Grosse, M. Norouzi (2019). Don't Blame the ELBO! A Linear VAE
#   Perspective on Posterior Collapse. [arXiv:1911.02469](https://arxiv.org/abs/1911.02469)
# - C. Cremer, X. Li, D. Duvenaud (2018). Inference Suboptimality in Variational Autoencoders.
#   [arXiv:1801.03558](https://arxiv.org/abs/1801.03558)
# - I. Higgins et al. (2017). β-VAE. [openreview.net](https://openreview.net/forum?id=Sy2fzU9gl)
# - A. Alemi et al. (2018). Fixing a Broken ELBO.
#   [arXiv:1711.00464](https://arxiv.org/abs/1711.00464)
# - G. Loaiza-Ganem, J. P. Cunningham (2019). The continuous Bernoulli.
#   [arXiv:1907.06845](https://arxiv.org/abs/1907.06845)
# - D. P. Kingma, D. J. Rezende, S. Mohamed, M. Welling (2014). Semi-supervised Learning with Deep
#   Generative Models. [arXiv:1406.5298](https://arxiv.org/abs/1406.5298)
# - E. Nalisnick et al. (2019). Do Deep Generative Models Know What They Don't Know?
#   [arXiv:1810.09136](https://arxiv.org/abs/1810.09136)
# - The VAE tutorial of Pyro: [pyro.ai/examples/vae.html](https://pyro.ai/examples/vae.html)

# %% tags=["progress"]
progress.show("var_mod")
