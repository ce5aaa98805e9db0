# %% [markdown] slideshow={"slide_type": "slide"}
# # {{title}}
# *Bayesian Statistical Learning, Lecture 4: Deep learning architectures*
#
# {{picture}}
#
# **Eight small layers turn a Gaussian cloud into two moons. How can they tell the exact density of
# every point?** Each of them bends the plane a little, and can be undone. You will write such a
# layer, test that it makes a density, and let it learn.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you will do.** Start from one change of variables, by hand. Build a layer, stack it into a
# network whose density is exact, and come within a few hundredths of a nat of the best possible
# score. (A **nat** is the unit of natural logarithms: 0.7 nats are a factor of two.) Then carry the
# same network back to variational Bayes.
#
# **What you will learn.**
# - What $\log|\det|$ measures, and what a wrong sign or direction does.
# - How to write and train a coupling flow (RealNVP) in plain PyTorch, and how to test that it is a
#   density.
# - What autoregressive flows and splines add, and what they cost.
# - Why a flow leaves a filament between two clusters, and what removes it.
# - How to judge a flow: against the truth, on the same points, in nats.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you need.** Python, probability (Gaussian, Kullback–Leibler divergence), partial
# derivatives; tensors and gradients of PyTorch, as [first_steps](first_steps.ipynb) shows them, and
# what an `nn.Module` is. Section 10 also needs variational Bayes, from the earlier lectures (1–3) or from that
# notebook. No GPU is needed. Everything runs unchanged on one, where it was not timed.
#
# {{ways}}; each says how long.
#
# {{timetable}}
#
# **Data.** Two moons, drawn by `course_utils.data.make_two_moons`: artificial, so that the true
# density is known. No licence is needed.

# %%
import course_utils  # noqa: F401 - before torch: it decides how threads wait

# %% slideshow={"slide_type": "subslide"}
import copy
import io
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from IPython.display import Image, Markdown, display
from PIL import Image as PILImage
from torch import Tensor, nn

from course_utils import progress
from course_utils.checks import flows as checks
from course_utils.data import make_two_moons, two_moons_log_prob
from course_utils.metrics import mean_and_error
from course_utils.plotting import PALETTE, plot_density, use_course_style
from course_utils.predictions import answer, predict
from course_utils.results import publish
from course_utils.runtime import bar, get_device, seed_everything, set_threads
from course_utils.validation import is_number, is_whole, require

# %% tags=["parameters"] slideshow={"slide_type": "subslide"}
SEED = 0
DEVICE = "auto"  # "cpu" or "cuda" to choose
THREADS = 1  # these networks are small: a second thread costs more than it brings
N_TRAIN = 10_000  # training points
N_TEST = 10_000  # test points; validation has a fifth of that
NOISE = 0.05  # width of the moons
SEEDS = 5  # repetitions in the table of section 7
REALNVP_STEPS = 1_500
MAF_STEPS = 600
SPLINE_STEPS = 800
BEST_STEPS = 800  # the flow of section 8
CONDITIONAL_STEPS = 300  # the posteriors of section 11
ELBO_STEPS = 600  # section 12

# %%
EXPECTED = "expected with parameters and networks as they stand in the notebook"
require(is_number(NOISE, 0.02, 0.2), "NOISE", "a number from 0.02 to 0.2", NOISE)
least = {"N_TRAIN": 1000, "N_TEST": 1000, "SEEDS": 2}  # one seed has no standard error
least |= {
    f"{name}_STEPS": 20 for name in ("REALNVP", "MAF", "SPLINE", "BEST", "CONDITIONAL", "ELBO")
}
for name, low in least.items():
    value = globals()[name]
    require(is_whole(value, low), name, f"a whole number of at least {low}", value)

# %%
seed_everything(SEED)
device = get_device(DEVICE)
_ = set_threads(THREADS)
use_course_style()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 One dimension by hand
# A variable $z$ has a density $p_z$ that we know. A **bijective** function $f$ maps the data $x$
# onto it: $z = f(x)$. Which density does $x$ have?
#
# Take the standard normal for $p_z$ and $f(x) = (2x^3 + x)/8$. It is increasing, so it has an
# inverse. It is almost flat at zero, and steep further out.


# %%
def f_cubic(x: Tensor) -> Tensor:
    """An increasing map, data to latent."""
    return (2 * x**3 + x) / 8


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict first:** near $x = 1.5$ a step of 0.01 in $x$ becomes a step of 0.018 in $z$. Compare
# the density of $x$ there with the density of $z$ at $f(1.5)$. Which is higher?

# %%
predict("steep", "that of x", "that of z", "neither: it is the same event")

# %%
ends = torch.tensor([1.5, 1.51], dtype=torch.double)  # of a piece of the x axis
probability = dist.Normal(0.0, 1.0).cdf(f_cubic(ends)).diff()  # that z lies in its image
print(f"probability of the piece and of its image: {probability.item():.5f}")
print(f"per unit of x: {(probability / ends.diff()).item():.3f}")
print(f"per unit of z: {(probability / f_cubic(ends).diff()).item():.3f}")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("steep", "that of x", "The same probability lies on a shorter piece.")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Probability is neither made nor lost. What lies in $[x, x + dx]$ lies in the image of that piece,
# of length $|f'(x)|\,dx$. So
# $$p_x(x) = p_z(f(x))\,\left|\frac{df}{dx}\right|.$$


# %% tags=["mistake-F3"]
def slope_cubic(x: Tensor) -> Tensor:
    return (6 * x**2 + 1) / 8


def standard_normal(z: Tensor) -> Tensor:
    return dist.Normal(0.0, 1.0).log_prob(z).exp()


x = torch.linspace(-3.5, 3.5, 2001)
p_x = standard_normal(f_cubic(x)) * slope_cubic(x).abs()
area = torch.trapezoid(p_x, x)
assert abs(area - 1) < 1e-3

# %% [markdown]
# The area is one: nothing was added or lost on the way. A density is not a probability: it is
# probability *per unit of* $x$. It may exceed one, and its value changes when $x$ is measured in
# other units. That is why a change of variables needs a factor at all: it converts "per unit of
# $z$" into "per unit of $x$". In the pictures the two blue areas are both one.

# %% jupyter={"source_hidden": true} alt="Left: the density of x, with two peaks. Middle: the curve from x to z, flat at zero; equal steps in x land close together in z there. Right: the density of z, with one peak."
fig, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.2), width_ratios=(2, 2, 1))
_ = left.fill_between(x, p_x, color=PALETTE["sky"])
_ = left.set(xlabel="data $x$", ylabel="density $p_x(x)$", title="two peaks in $x$ …")
_ = middle.plot(x, f_cubic(x), color=PALETTE["black"])
for start in torch.linspace(-1.9, 1.9, 9):  # from x up to the curve, then across to z
    corner = f_cubic(start)
    _ = middle.plot([start, start, 3], [-4, corner, corner], color=PALETTE["orange"], lw=0.8)
_ = middle.set(xlabel="data $x$", ylabel="latent $z$", xlim=(-3, 3), ylim=(-4, 4))
_ = middle.set_title("… $z = f(x)$ …")
z = torch.linspace(-4, 4, 401)
_ = right.fill_betweenx(z, standard_normal(z), color=PALETTE["sky"])
_ = right.set(xlabel="density $p_z(z)$", ylabel="latent $z$", title="… one in $z$", ylim=(-4, 4))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Equal steps in $x$ (orange) land close together in $z$ where $f$ is flat. A flat piece of $f$
# holds little probability: it becomes the valley between the two peaks. Far out, where $f$ is
# steepest, $p_z(f(x))$ vanishes faster than the slope grows. Sampling reads the picture from right
# to left: draw $z$, return $f^{-1}(z)$.
#
# **The absolute value matters.** $-f$ is a bijection, too, and gives the same $p_x$, because
# $p_z$ is symmetric. Its derivative is negative. Leave out the bars and the "density" is negative
# everywhere, with area $-1$.

# %% tags=["mistake-F4"]
without_bars = standard_normal(-f_cubic(x)) * -slope_cubic(x)
assert without_bars.max() <= 0
assert abs(torch.trapezoid(without_bars, x) + 1) < 1e-3

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 1: the log-normal density (5 minutes)
# Let $x = e^z$ with $z \sim N(0, 1)$. Write the **log density** of $x > 0$.


# %% tags=["exercise"]
def my_lognormal(x: Tensor) -> Tensor:
    """x (n,), positive -> log p_x(x) (n,), in nats."""
    return ...


checks.check_lognormal(my_lognormal)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Which $f$ leads from $x$ to $z$? Write the formula of this section as a sum of two logarithms.
# </details>
#
# <details><summary>Hint 2</summary>
#
# $f(x) = \log x$, so $df/dx = 1/x$. What is its logarithm?
# </details>


# %% tags=["solution"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# Solution
def solution_lognormal(x: Tensor) -> Tensor:
    return dist.Normal(0.0, 1.0).log_prob(x.log()) - x.log()


assert checks.check_lognormal(solution_lognormal)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 Two dimensions: areas
# What takes the place of the slope in more dimensions? Look at two linear maps of a square with
# corners at zero and one. We measure the area of what comes out with the surveyor's formula, which
# knows the corners and nothing else.
#
# **Predict first:** the first map pushes the upper edge of the square sideways by 0.8; the lower
# edge stays. Two sides become longer. What happens to the area?

# %%
predict("shear", "it grows", "it stays the same", "it shrinks")


# %%
def shoelace(corner: Tensor) -> Tensor:
    """Area of a closed polygon, positive if its corners run anticlockwise."""
    (x1, y1), (x2, y2) = corner[:-1].T, corner[1:].T
    return (x1 * y2 - x2 * y1).sum() / 2


square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])  # (5, 2)
shear = torch.tensor([[1.0, 0.8], [0.0, 1.0]])
matrix = torch.tensor([[1.2, 0.6], [-0.5, 1.0]])
images = {"data $x$": square, "pushed sideways": square @ shear.T, "any matrix": square @ matrix.T}

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Three shapes with their areas: a square of area 1, the parallelogram of the shear of area 1, and a turned and stretched parallelogram of area 1.5."
fig, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharex=True, sharey=True)
for ax, (name, shape), colour in zip(axes, images.items(), ("sky", "orange", "green"), strict=True):
    _ = ax.fill(*shape.T, color=PALETTE[colour], alpha=0.7)
    _ = ax.set(title=f"{name}: area {shoelace(shape):.2f}", aspect="equal")
    _ = ax.set(xlabel="first coordinate")
_ = axes[0].set_ylabel("second coordinate")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("shear", "it stays the same", "Same base, same height: a shear costs no volume.")

# %% [markdown] slideshow={"slide_type": "subslide"}
# The factor is the **determinant**. For a curved map the same holds in the small: near each point
# it looks like its matrix of partial derivatives, the **Jacobian** $\partial f/\partial x$, a tiny
# square becomes a tiny parallelogram, and the factor differs from place to place:
# $$\log p_x(x) = \log p_z(f(x)) + \log\left|\det\frac{\partial f}{\partial x}\right|.$$
#
# In any number of dimensions that logarithm is one number per point. This is why `log_det` has the
# shape $(n,)$ in all the code below. (Flows are sometimes called "volume preserving". In general
# they are not; a map with $|\det| = 1$ everywhere moves the values of a density about, and changes
# none.)
#
# **Composition.** For $f = f_2 \circ f_1$ the chain rule multiplies the Jacobians, so the
# log-determinants add. That is all that is needed to stack layers.

# %% tags=["mistake-F1"]
for each, image in ((shear, images["pushed sideways"]), (matrix, images["any matrix"])):
    assert torch.allclose(torch.linalg.det(each), shoelace(image) / shoelace(square))
second = torch.tensor([[0.3, -1.0], [2.0, 0.4]])
log_det = [torch.linalg.slogdet(m).logabsdet for m in (matrix, second, second @ matrix)]
assert torch.allclose(log_det[0] + log_det[1], log_det[2])

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Direction, said once.** In the lecture, and in every formula of this notebook, $f$ maps data to
# latent: $x \to z$. PyTorch's and Pyro's `Transform` objects map the other way, $z \to x$, because
# their habit is to sample. Such an object $T$ has three methods: `T(z)` is $x$, `T.inv(x)` is $z$,
# and `T.log_abs_det_jacobian(z, x)` belongs to the direction of `T(z)`. Mixing the two directions
# is a common mistake with flows.
#
# ### Exercise 2: the density of a stack (15 minutes)
# A list of transforms is applied to $z \sim N(0, I)$, the first one first; what comes out is $x$.
# Each works on every coordinate by itself, so `T.log_abs_det_jacobian(z, x)` has the shape $(n, d)$
# of $z$ and $x$. Write the log density of $x$.


# %% tags=["exercise"]
def my_log_prob(x: Tensor, transforms: list) -> Tensor:
    """x (n, d), made by transforms of z ~ N(0, I) -> log density (n,), in nats."""
    return ...


checks.check_transformed_log_prob(my_log_prob)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Begin with $x$ and go back to $z$. Which transform must be undone first?
# </details>
#
# <details><summary>Hint 2</summary>
#
# Try one transform, $x = 2z$. Which density has $x$, and what does `log_abs_det_jacobian` say?
# The Jacobian of an inverse is the inverse of the Jacobian.
# </details>
#
# <details><summary>Hint 3</summary>
#
# `dist.Normal(0.0, 1.0).log_prob(z)` has shape $(n, d)$, too. What makes one number of each row?
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_log_prob(x: Tensor, transforms: list) -> Tensor:
    log_det = torch.zeros_like(x)
    for transform in reversed(transforms):
        z = transform.inv(x)
        log_det = log_det - transform.log_abs_det_jacobian(z, x)  # it goes z -> x: minus
        x = z
    return (dist.Normal(0.0, 1.0).log_prob(x) + log_det).sum(-1)


assert checks.check_transformed_log_prob(course_log_prob)

# %% [markdown]
# We try it, yours if it has passed, on numbers squeezed between zero and one: against the library,
# and by the integral.

# %% tags=["mistake-F4"]
score = my_log_prob if checks.check_transformed_log_prob(my_log_prob) else course_log_prob
stack = [dist.transforms.AffineTransform(0.5, 2.0), dist.transforms.SigmoidTransform()]  # z -> x
points = (torch.arange(1000) + 0.5)[:, None] / 1000  # (n, 1)
log_p = torch.as_tensor(score(points, stack)).to(points)  # (n,)
library = dist.TransformedDistribution(dist.Normal(0.0, 1.0), stack)
assert torch.allclose(log_p, library.log_prob(points)[:, 0], atol=1e-3)
assert abs(log_p.exp().mean() - 1) < 1e-3

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 Two moons and the best possible score
# Two half circles, blurred by noise of standard deviation 0.05. They are artificial, so we know
# their density $p$: an integral over the angle, done by quadrature. Three separate sets: the
# training points give gradients, the validation points decide which weights are kept, the test
# points are for the verdict, and no decision is taken from them.


# %%
def draw_moons(seed: int, n: int) -> Tensor:
    return make_two_moons(n, noise=NOISE, seed=seed).x.to(device)  # (n, 2)


def true_log_prob(x: Tensor) -> Tensor:
    """The density the points come from: exact, (n, 2) -> (n,), in nats."""
    return two_moons_log_prob(x.cpu(), noise=NOISE).to(x.device)


x_train, x_val = draw_moons(100 + SEED, N_TRAIN), draw_moons(200 + SEED, N_TEST // 5)
x_test = draw_moons(300 + SEED, N_TEST)
assert x_train.shape == (N_TRAIN, 2)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The score of a model is the mean of $-\log q(x)$ over points that it has not seen, the **negative
# log likelihood** (NLL), in nats per point. Low is good.
#
# **Predict first:** a model that knows the true density of some data scores them. What is its NLL?

# %%
predict("truth_score", "zero", "above zero, always", "that depends: below zero, too")

# %% [markdown]
# To compute it exactly we sum over a grid. `grid` lays midpoints over a box, and says how large a
# cell is. `integrate` adds up density times area. In the plane this is exact enough to find
# mistakes of a tenth of a per cent; in ten dimensions there would be too many points.


# %%
def grid(box: tuple, points: int) -> tuple[Tensor, float]:
    """Midpoints of a grid over (left, right, bottom, top), (points², 2), and the area of a cell."""
    left, right, bottom, top = box
    middle = (torch.arange(points, device=device) + 0.5) / points
    x1, x2 = left + (right - left) * middle, bottom + (top - bottom) * middle
    return torch.cartesian_prod(x1, x2), (right - left) * (top - bottom) / points**2


def integrate(log_density, box: tuple, points: int = 400) -> float:
    """The integral of exp(log_density) over a box, by the midpoint rule."""
    x, cell = grid(box, points)
    rows = [log_density(part).cpu().double().exp().sum().item() for part in x.split(10_000)]
    return sum(rows) * cell


# %% tags=["nbval-check-output"]
BOX = (-1.5, 2.5, -1.0, 1.5)
x, cell = grid(BOX, 500)
log_p = true_log_prob(x).cpu().double()
entropy = -(log_p.exp() * log_p).sum().item() * cell
print(f"expected NLL of the truth: {entropy:.4f} nats")
print(f"with all coordinates ten times smaller: {entropy - 2 * math.log(10):.4f} nats")

# %% tags=["answer", "mistake-F3"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "truth_score",
    "that depends: below zero, too",
    "A density may exceed one; other units move the zero of the scale.",
)
assert abs(integrate(true_log_prob, BOX) - 1) < 1e-3, EXPECTED
assert abs(entropy - 0.2892) < 5e-4, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# This floor is the **entropy** $H = -\int p(x) \log p(x)\,dx$. No model can have a lower expected
# NLL. The distance to it is a Kullback–Leibler divergence:
# $$\text{gap}(q) = E_p[\log p(x) - \log q(x)] = \mathrm{KL}(p\,\|\,q) \ge 0.$$
#
# We estimate it **paired**, on the same test points for $p$ and $q$: for a good model the luck of
# the test set then cancels. A gap of 0.7 nats means that, on average (in the geometric sense), the
# truth gave each test point twice the density that the model did; 0.01 nats, one per cent more.
# Percentages of a log density mean nothing, because its zero moves. We begin with the simplest
# model: one Gaussian.


# %% tags=["nbval-check-output", "mistake-F6"]
def gap_to_truth(log_q: Tensor) -> tuple[float, float]:
    """Paired gap on the test points and its standard error, in nats."""
    mean, error = mean_and_error((true_log_prob(x_test) - log_q).cpu().double())
    return mean.item(), error.item()


gaussian = dist.MultivariateNormal(x_train.mean(0), x_train.T.cov())
gaussian_gap = gap_to_truth(gaussian.log_prob(x_test))
print("gap of one Gaussian: {:.3f} ± {:.3f} nats".format(*gaussian_gap))
_, scatter = mean_and_error(true_log_prob(x_test).cpu().double())
print(f"a score by itself, even that of the truth, scatters by {scatter:.3f} nats")
assert 1.5 < gaussian_gap[0] < 1.68, EXPECTED

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Left: 3,000 training points on two interleaved half circles. Right: a heat map of their true density, two bright bands."
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
_ = left.scatter(*x_train[:3000].T.cpu(), s=2, color=PALETTE["blue"], rasterized=True)
_ = left.set(xlabel="$x_1$", ylabel="$x_2$", title="3,000 training points", aspect="equal")
_ = plot_density(lambda x: true_log_prob(x.to(device)), extent=BOX, ax=right)
_ = left.set(xlim=BOX[:2], ylim=BOX[2:])
_ = right.set_title("the density to find")
_ = fig.colorbar(right.images[-1], ax=right, shrink=0.75, label="per unit area")

# %% [markdown]
# Left what the models see, right what they should find. One Gaussian misses it by more than one and
# a half nats: every model has to beat that, and none can beat zero.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Coupling layers by hand (RealNVP)
# We want a map that bends as freely as a network, yet has a simple inverse and a simple
# determinant. Dinh and others (2015, 2017) split the coordinates into two parts. One part is
# **kept**; it steers what happens to the part that is **moved**:
# $$z_\text{kept} = x_\text{kept}, \qquad
# z_\text{moved} = x_\text{moved} \cdot e^{s(x_\text{kept})} + t(x_\text{kept}).$$
#
# Any network may give $s$ and $t$. A layer never changes what it keeps, so the next layer has to
# move that: `flip`.
#
# Ours has two hidden layers, and begins with $s = t = 0$: each layer starts as the identity. The
# first weights are five times PyTorch's usual ones, since a function of one coordinate has to bend
# several times across the moons.


# %%
def steering_network(inputs: int, outputs: int, hidden: int) -> nn.Sequential:
    """A network whose output is zero at first."""
    first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    with torch.no_grad():
        first.weight *= 5
        first.bias *= 5
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(first, nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)


# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 3: build the layer (25 minutes)
# Write `forward` and `inverse`. Without `flip` the first `self.first` coordinates are kept and the
# others moved; with `flip` it is the other way round. `forward` returns $z$, its columns in the
# order of those of $x$, and for each row $\log|\det \partial z/\partial x|$. `inverse` leads from
# any $z$ back to $x$.
#
# `__init__` and `steer` are there already. `steer` gives $s$ and $t$, each with one column for each
# moved coordinate. It keeps the inverse accurate in 32-bit numbers: $s$ stays between −2 and 2, and
# the network sees $4\tanh(x/4)$, so that far outside the data nothing explodes.
#
# **Once it has passed, your layer is the one that this notebook stacks and trains.**


# %% tags=["exercise"]
class MyCoupling(nn.Module):
    """An affine coupling layer f, data to latent; ``flip`` swaps the kept and the moved part."""

    def __init__(self, d: int, *, flip: bool, hidden: int = 32) -> None:
        super().__init__()
        self.flip, self.first = flip, d - d // 2
        kept, moved = (d // 2, self.first) if flip else (self.first, d // 2)
        self.net = steering_network(kept, 2 * moved, hidden)

    def steer(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.net(4 * torch.tanh(kept / 4)).chunk(2, -1)
        return 2 * torch.tanh(s / 2), t  # (n, moved) each

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return ..., ...  # z (n, d), log |det| (n,)

    def inverse(self, z: Tensor) -> Tensor:
        return ...  # x (n, d)


my_coupling = MyCoupling  # the class, not a layer
checks.check_coupling(my_coupling)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Cut with `x[:, : self.first]` and `x[:, self.first :]`; which of the two is kept depends on
# `self.flip`. Join with `torch.cat((…, …), -1)`, in the order in which you have cut.
# </details>
#
# <details><summary>Hint 2</summary>
#
# Write down the Jacobian for $d = 2$. One of its corners is zero, so the determinant is the product
# of the diagonal. What stands there? And the logarithm of a product?
# </details>
#
# <details><summary>Hint 3</summary>
#
# On the way back the kept part is known at once. So $s$ and $t$ are known, too; no network is
# inverted. Solve the equation for $x_\text{moved}$: undo first what was done last.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
class Coupling(nn.Module):
    """One affine coupling layer f, data to latent; ``flip`` swaps the kept and the moved part."""

    def __init__(self, d: int, *, flip: bool, hidden: int = 32) -> None:
        super().__init__()
        self.flip, self.first = flip, d - d // 2
        kept, moved = (d // 2, self.first) if flip else (self.first, d // 2)
        self.net = steering_network(kept, 2 * moved, hidden)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = x[:, : self.first], x[:, self.first :]
        return parts[::-1] if self.flip else parts  # kept, moved

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((moved, kept) if self.flip else (kept, moved), -1)

    def steer(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.net(4 * torch.tanh(kept / 4)).chunk(2, -1)
        return 2 * torch.tanh(s / 2), t  # (n, moved) each

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self.split(x)
        s, t = self.steer(kept)
        # The Jacobian is triangular; its diagonal holds ones and exp(s).
        return self.join(kept, moved * s.exp() + t), s.sum(-1)  # z (n, d), log |det| (n,)

    def inverse(self, z: Tensor) -> Tensor:
        kept, moved = self.split(z)
        s, t = self.steer(kept)
        return self.join(kept, (moved - t) * torch.exp(-s))  # x (n, d)


assert checks.check_coupling(Coupling)

# %%
if checks.check_coupling(my_coupling):
    Coupling = my_coupling
print(f"From here on all layers are of the class {Coupling.__name__}.")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Layers are chained. Forward, the log-determinants add; backward, the layers run in reverse.


# %%
class Chain(nn.Module):
    """f = last ∘ … ∘ first, data to latent."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        for layer in self.layers:
            x, more = layer(x)
            log_det = log_det + more
        return x, log_det  # (n, d), (n,)

    def inverse(self, z: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return z  # (n, d)


# %%
def realnvp(d: int, layers: int = 8) -> Chain:
    """Affine coupling layers; the kept part alternates."""
    if d < 2:
        raise ValueError("a coupling layer needs two coordinates: one steers the other")
    return Chain(*(Coupling(d, flip=bool(i % 2)) for i in range(layers)))


# %% [markdown] slideshow={"slide_type": "subslide"}
# A **flow** is a map $f$, a base density $p_z$, and here also a standardisation of the data, so
# that the fit does not depend on their units. Standardising is a change of variables, too: its
# log-determinant, $-\sum \log \text{scale}$, belongs to the score.


# %%
class GaussianBase(nn.Module):
    """The base density N(0, I)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(d))

    def distribution(self) -> dist.Distribution:
        return dist.Independent(dist.Normal(self.zero, 1.0), 1)


class Flow(nn.Module):
    """Density and samples of x, where f((x - shift) / scale) follows the base density."""

    def __init__(self, f: nn.Module, base: nn.Module, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.f, self.base = f, base
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)

    def log_prob(self, x: Tensor) -> Tensor:
        z, log_det = self.f((x.to(self.shift) - self.shift) / self.scale)
        return self.base.distribution().log_prob(z) + log_det - self.scale.log().sum()  # (n,)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        z = self.base.distribution().sample((n,))
        return self.shift + self.scale * self.f.inverse(z)  # (n, d)


# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Is it really a density?
# Invertibility and normalisation are claims. We test them *before* training, on eight layers with
# random weights that bend strongly. Three tests: the round trip $f^{-1}(f(x)) = x$, also far away
# from the data; the log-determinant against the Jacobian that autograd finds; the integral of $q$.
#
# **Predict first:** nothing was trained. To what does such a random "density" integrate?

# %%
predict("untrained", "to one", "to some other number: training makes it one")

# %% tags=["mistake-F9"]
torch.manual_seed(SEED)
random_chain = realnvp(2).to(device)
with torch.no_grad():
    for weight in random_chain.parameters():
        weight += 0.06 * torch.randn_like(weight)
far = 5 * torch.randn(10_000, 2, device=device)  # up to 20 scales away
with torch.no_grad():
    z, log_det = random_chain(far)
    round_trip = (random_chain.inverse(z) - far).abs().max().item()
print(f"largest error of the round trip: {round_trip:.1e}")
assert z.shape == (10_000, 2) and log_det.shape == (10_000,)
assert round_trip < 1e-4

# %% tags=["mistake-F9"]
few = far[:20] / 5
jacobian = torch.func.vmap(torch.func.jacrev(lambda x: random_chain(x[None])[0][0]))(few)
assert jacobian.shape == (20, 2, 2)
by_autograd = torch.linalg.slogdet(jacobian).logabsdet  # (20,)
assert torch.allclose(by_autograd, random_chain(few)[1], atol=1e-3)

# %%
unit = torch.ones(2, device=device)
untrained = Flow(random_chain, GaussianBase(2), 0 * unit, unit).to(device).requires_grad_(False)
drawn = untrained.sample(20_000)  # how far does it reach?
reach = torch.stack([drawn.amin(0) - 1, drawn.amax(0) + 1], 1)  # (axis, 2)
mass = integrate(untrained.log_prob, tuple(reach.flatten().tolist()), 600)
print(f"integral of the random flow: {mass:.4f}")

# %% tags=["answer", "mistake-F9"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("untrained", "to one", "Whatever the weights are: training only chooses among densities.")
assert abs(mass - 1) < 0.005

# %% [markdown] slideshow={"slide_type": "subslide"}
# Each test finds other mistakes. A wrong inverse fails the round trip, but may leave the integral
# at one. A wrong sign in the log-determinant leaves the round trip intact, and fails the other two.
# A log-determinant of the wrong coordinates passes the round trip, and fails against autograd.
#
# ### Train it
# Maximum likelihood: minimise the mean of $-\log q(x)$ over the training points. Up to the entropy
# that mean is $\mathrm{KL}(p\,\|\,q)$, with an exact density instead of a bound. (Variational
# Bayes minimises the other direction; section 10 compares the two.) The scale of the
# standardisation comes from the *training* points only.


# %%
def build_flow(kind: str, x: Tensor, components: int, seed: int) -> Flow:
    """An untrained flow that standardises like x (n, d); sections 6 to 8 add kinds and bases."""
    shift, scale = x.mean(0), x.std(0)
    if not (scale > 0).all():
        raise ValueError("every coordinate of the training points must vary, and be finite")
    if kind == "realnvp":
        f = realnvp(x.shape[1])
    elif kind == "maf":
        f = maf(x.shape[1])
    elif kind == "spline":
        f = Spline(x.shape[1])
    else:
        raise ValueError(f"kind must be realnvp, maf or spline, not {kind!r}")
    if components == 1:
        base = GaussianBase(x.shape[1])
    else:
        base = start_mixture((x - shift) / scale, components, seed)
    return Flow(f, base, shift, scale).to(x)


# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 4: one step of training (15 minutes)
# Write the step by which every flow of this notebook learns. `batch` is a tuple, here of the points
# alone; `flow.log_prob(*batch)` scores them. Take one step of the optimiser towards a smaller mean
# NLL of the batch, and return that loss as a number. Two precautions:
#
# - The gradient of all weights together is clipped: its norm is at most 0.5.
# - Now and then a gradient is not finite although the loss is. Then the weights stay as they are.


# %% tags=["exercise"]
def my_train_step(flow: nn.Module, batch: tuple, optimiser: torch.optim.Optimizer) -> float:
    """One step; returns the loss that it began with, in nats per point."""
    return ...


checks.check_train_step(my_train_step)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# A step has four parts: the loss; its gradient; care for the gradient; the optimiser. PyTorch
# *adds* every new gradient to the old one. Who clears it?
# </details>
#
# <details><summary>Hint 2</summary>
#
# `nn.utils.clip_grad_norm_(flow.parameters(), …)` clips, and returns the norm as it was before. Ask
# that norm whether it is finite.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def train_step(flow: nn.Module, batch: tuple, optimiser: torch.optim.Optimizer) -> float:
    """One step; returns the loss that it began with, in nats per point."""
    loss = -flow.log_prob(*batch).mean()
    optimiser.zero_grad()
    loss.backward()
    if nn.utils.clip_grad_norm_(flow.parameters(), 0.5).isfinite():
        optimiser.step()
    return loss.item()


assert checks.check_train_step(train_step)

# %%
if checks.check_train_step(my_train_step):
    train_step = my_train_step

# %% [markdown] slideshow={"slide_type": "subslide"}
# Three habits go around that step. The learning rate follows one cycle: up, then smoothly down to
# zero. Each training point is jittered, by one per cent of the scale of the data, every time it is
# used: less than its own noise, and enough that no point can be learnt by heart. The weights with
# the best *validation* score, on points that are not jittered, are kept; at the end
# `requires_grad_(False)` says that nothing is trained any more.


# %%
def jittered(x: Tensor, width: Tensor) -> Tensor:
    """The points with Gaussian noise of the given width added."""
    return x + width * torch.randn_like(x)


@torch.no_grad()
def mean_nll(flow: Flow, x: Tensor) -> float:
    """Mean negative log likelihood, nats per point."""
    return -flow.log_prob(x).mean().item()


# %% slideshow={"slide_type": "subslide"}
def fit_flow(
    x_train, x_val, *, kind="spline", components=32,
    steps=1000, batch=1024, rate=1e-2, jitter=0.01, seed=0,
) -> Flow:  # fmt: skip
    """Maximum likelihood; x_train (n, d), x_val (m, d) -> a flow with log_prob(x) and sample(n)."""
    torch.manual_seed(seed)
    flow, n = build_flow(kind, x_train, components, seed), len(x_train)
    optimiser = torch.optim.Adam(flow.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.2)
    order = torch.cat([torch.randperm(n) for _ in range(1 + steps * batch // n)]).to(x_train.device)
    best, weights, flow.history = math.inf, flow.state_dict(), []
    for step in (shown := bar(range(steps), desc=kind)):
        x = x_train[order[step * batch : (step + 1) * batch]]
        loss = float(train_step(flow, (jittered(x, jitter * flow.scale),), optimiser))
        schedule.step()
        if step % 50 == 49 or step == steps - 1:
            flow.history.append((loss, mean_nll(flow, x_val)))
            shown.set_postfix(loss=f"{loss:.2f}", refresh=False)
            if flow.history[-1][1] < best:
                best, weights = flow.history[-1][1], copy.deepcopy(flow.state_dict())
    flow.load_state_dict(weights)
    return flow.requires_grad_(False)


# %% tags=["mistake-D2"]
started = time.perf_counter()
settings = {"components": 1, "steps": REALNVP_STEPS, "batch": 512}
realnvp_flow = fit_flow(x_train, x_val, kind="realnvp", seed=SEED, **settings)
realnvp_seconds = time.perf_counter() - started
gap, error = gap_to_truth(realnvp_flow.log_prob(x_test))
print(f"RealNVP by hand: gap {gap:.3f} ± {error:.3f} nats, {realnvp_seconds:.0f} s")
assert 0 < gap < 0.06 and error < scatter / 2, EXPECTED
best_score = min(score for _, score in realnvp_flow.history)  # weights are chosen on x_val alone
assert math.isclose(mean_nll(realnvp_flow, x_val), best_score, abs_tol=1e-4)

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Loss of the batches and of the validation points against the training step. Both fall within a few hundred steps and come close to a dashed line, the entropy of the moons."
fig, ax = plt.subplots(figsize=(7, 3.2))
losses = zip(*realnvp_flow.history, strict=True)
for name, values in zip(("batch", "validation"), losses, strict=True):
    _ = ax.plot(torch.arange(1, 1 + len(values)) * 50, values, label=name)
_ = ax.axhline(entropy, color=PALETTE["black"], linestyle="--", label="entropy of the moons")
_ = ax.set(xlabel="step", ylabel="NLL (nats per point)", ylim=(entropy - 0.1, entropy + 0.7))
_ = ax.legend()
_, scatter_val = mean_and_error(true_log_prob(x_val).cpu().double())
print(f"the mean over {len(x_val):,} validation points scatters by {scatter_val:.3f} nats")

# %% [markdown]
# The validation curve comes down towards the dashed floor. Its *expectation* cannot be lower; the
# curve itself could, by luck: a mean over so few points scatters. That is why we judge by the
# paired gap. The two curves stay close: eight small layers do not learn by heart ten thousand
# points that are jittered each time.
#
# What does the score become without the Jacobian of the standardisation?

# %% tags=["mistake-F7", "mistake-F8"]
honest = realnvp_flow.log_prob(x_test)
forgotten = honest + realnvp_flow.scale.log().sum()  # the density of the standardised points
print(f"test NLL {-honest.mean():.3f} nats; of the standardised points {-forgotten.mean():.3f}")
shares = [gap / -score.mean().item() for score in (honest, forgotten)]
print("the same gap is {:.0%} of the one and {:.0%} of the other".format(*shares))
assert abs(realnvp_flow.scale.log().sum()) > 0.5, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The same flow, the same points, and 0.8 nats between the two: they belong to different units. Only
# the first may be compared with the entropy, or with another model's score.
#
# The trained flow has to pass the round trip and the integral, too. (Its log-determinant agrees
# with autograd whatever the weights are.)


# %%
def round_trip_error(flow: Flow, x: Tensor) -> float:
    """Largest |f⁻¹(f(x)) - x| in standardised coordinates."""
    with torch.no_grad():
        z, _ = flow.f(x)
        return (flow.f.inverse(z.clone()) - x).abs().max().item()


BIG_BOX = (-2.5, 3.5, -2.0, 2.5)
assert round_trip_error(realnvp_flow, far) < 1e-4, EXPECTED
assert abs(integrate(realnvp_flow.log_prob, BIG_BOX, 500) - 1) < 0.005, EXPECTED

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Watching it work
# Sampling runs the layers backwards: $z$ becomes $x$ in eight steps. We follow 1,500 points and a
# grid.
#
# **Predict first:** the two moons do not touch. Will the grid tear between them?

# %%
predict("tear", "yes, somewhere between the moons", "no, it is only stretched")


# %%
def stages(flow: Flow, z: Tensor) -> list[Tensor]:
    """The points after none, one, …, all layers of f⁻¹, on the CPU."""
    path = [z]
    for layer in reversed(flow.f.layers):
        path.append(layer.inverse(path[-1]).detach())
    return [point.cpu() for point in path]


lines = torch.linspace(-2.5, 2.5, 11, device=device)
along = torch.linspace(-2.5, 2.5, 400, device=device)
rows = torch.stack([torch.stack((along, 0 * along + c), -1) for c in lines])  # (11, 400, 2)
mesh = torch.cat((rows, rows.flip(-1))).reshape(-1, 2)  # horizontal, then vertical lines
torch.manual_seed(SEED)
cloud = torch.randn(1500, 2, device=device)
paths = stages(realnvp_flow, torch.cat((mesh, cloud)))
assert len(paths) == 9


# %% tags=["picture-first"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Five panels, after 0, 2, 4, 6 and 8 layers. A round cloud of points on a grid is sheared and stretched, first up, then to both sides, and lies at last on two interleaved half moons. The colours, from left to right at first, follow it."
def draw_stage(ax, points: Tensor, title: str) -> None:
    """Grid and cloud of one stage, standardised; colours run from left to right in z."""
    net, dots = points[: 22 * 400].reshape(22, 400, 2), points[22 * 400 :]
    _ = ax.plot(*net.permute(2, 1, 0), color=PALETTE["grey"], lw=0.5, alpha=0.7)
    _ = ax.scatter(*dots.T, s=3, c=cloud[:, 0].cpu(), cmap="plasma", vmin=-2, vmax=2, zorder=3)
    low, high = dots.quantile(0.002, 0), dots.quantile(0.998, 0)
    middle, half = (low + high) / 2, 0.54 * (high - low).max()
    _ = ax.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    _ = ax.set(title=title, aspect="equal", xlabel="coordinate 1")
    ax.grid(False)


fig, axes = plt.subplots(1, 5, figsize=(10, 2.5))
for ax, stage in zip(axes, range(0, 9, 2), strict=True):
    draw_stage(ax, paths[stage], f"{stage} layers")
_ = axes[0].set_ylabel("coordinate 2")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "tear",
    "no, it is only stretched",
    "A layer is continuous, and so is its inverse; the price is a thin thread between the moons.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# From left to right, two layers a panel, each panel on its own scale: the Gaussian cloud is
# stretched and sheared up and down, then left and right, and so on, until it lies on two moons.
# Neighbours stay neighbours, as the colours show. The animation has every layer.

# %% jupyter={"source_hidden": true} alt="Animation: the cloud becomes two moons, layer by layer."
fig, ax = plt.subplots(figsize=(3, 3))


def frame(i: int) -> None:
    ax.clear()
    layer, part = divmod(i, 2)
    layer, part = (layer, part / 2) if layer < 8 else (7, 1.0)
    draw_stage(ax, torch.lerp(paths[layer], paths[layer + 1], part), f"layer {layer + 1} of 8")


pictures = []
for i in range(17):
    frame(i)
    fig.canvas.draw()
    picture = PILImage.fromarray(np.asarray(fig.canvas.buffer_rgba())[..., :3])
    pictures.append(picture.quantize(24, palette=pictures[0] if pictures else None, dither=0))
plt.close(fig)
film = io.BytesIO()
pictures[0].save(
    film, "GIF", save_all=True, append_images=pictures[1:], duration=[250] * 16 + [2500], loop=0
)
display(Image(film.getvalue(), format="gif", alt="The cloud becomes two moons, layer by layer."))

# %% [markdown] slideshow={"slide_type": "subslide"}
# And the density? The flow knows it at every point. Beside the truth, in the same colours:

# %% tags=["picture-moons"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Two heat maps with the same colours. Left the true density of the two moons, right the density of the hand-written RealNVP. They look alike, but for a thin thread that joins the moons on the right."
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), dpi=130)
brightest = true_log_prob(grid(BOX, 300)[0]).max().exp().item()
scores = {"true density": true_log_prob, "RealNVP by hand": realnvp_flow.log_prob}
for ax, (title, score) in zip(axes, scores.items(), strict=True):
    _ = plot_density(lambda x, f=score: f(x.to(device)), extent=BOX, vmax=brightest, ax=ax)
    _ = ax.set_title(title)
_ = fig.colorbar(ax.images[-1], ax=axes, shrink=0.8, label="density (per unit area)")

# %% [markdown]
# The moons are nearly right, in shape and in brightness. Look closely: their ends are smeared, and
# a thin bright thread joins them. Section 8 says why, and what removes it.
#
# Two habits make such pictures honest. Both panels share one colour scale; otherwise each would be
# stretched to its own maximum, and a density that is far too low would look the same. And the first
# row of an image is its top, while the second coordinate grows upwards: without `origin="lower"`
# the moons would hang upside down, which is easy to overlook when the data are symmetric.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 Autoregressive flows
# A coupling layer moves half of the coordinates at a time. A **masked autoregressive flow** (MAF,
# Papamakarios and others 2017) moves all: each coordinate is scaled and shifted by functions of
# the coordinates *before* it,
# $$z_i = x_i \cdot e^{s_i(x_1, \dots, x_{i-1})} + t_i(x_1, \dots, x_{i-1}).$$
# The Jacobian is triangular again. One network with masked weights gives all $s_i$ and $t_i$ in one
# pass, so a density costs one pass.
#
# **Predict first:** how long does sampling take in 64 dimensions, where $x$ is wanted and $z$ is
# known?

# %%
predict("maf_samples", "as long as scoring", "about twice as long", "64 times as long, or more")

# %% [markdown]
# Pyro has the layer: `AffineAutoregressive`. As a library transform it maps $z \to x$. We use it
# backwards: its `__call__` is our $f$. Beware of a trap: the object remembers its last input and
# output. Ask for the inverse of that very output and it returns the remembered input: a round trip
# that cannot fail, and proves nothing. We hand it a copy.
#
# The two details of section 4 are needed here, too. Without bounded inputs and scales the trained
# flow loses a thousandth in the round trip far outside the data.


# %% slideshow={"slide_type": "subslide"}
from pyro.nn import AutoRegressiveNN


class Masked(AutoRegressiveNN):
    """Pyro's masked network of bounded inputs, as in section 4."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return super().forward(4 * torch.tanh(x / 4))


class Autoregressive(nn.Module):
    """One block of a masked autoregressive flow f, data to latent, on Pyro's transform."""

    def __init__(self, order: Tensor, hidden: int = 64) -> None:
        super().__init__()
        network = Masked(len(order), [hidden, hidden], permutation=order)
        self.block = dist.transforms.AffineAutoregressive(network, log_scale_min_clip=-3.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.block(x)
        return z, self.block.log_abs_det_jacobian(x, z)  # (n, d), (n,)

    def inverse(self, z: Tensor) -> Tensor:
        return self.block.inv(z.clone())  # a copy: nothing remembered


def maf(d: int, blocks: int = 3) -> Chain:
    """Masked autoregressive blocks; every second one takes the coordinates in reverse order."""
    order = torch.arange(d)
    return Chain(*(Autoregressive(order.flip(0) if i % 2 else order) for i in range(blocks)))


# %%
def seconds_for(function, repeats: int = 3) -> float:
    """The shortest of a few runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


wide, points = maf(64).to(device), torch.randn(500, 64, device=device)
with torch.no_grad():
    scoring, sampling = (seconds_for(lambda f=f: f(points.clone())) for f in (wide, wide.inverse))
print(f"64 dimensions: sampling takes {sampling / scoring:.0f} times as long as scoring")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "maf_samples",
    "64 times as long, or more",
    r"$x_1$ must be known before $x_2$ can be computed, and so on: $d$ passes.",
)
assert sampling > 5 * scoring

# %% [markdown] slideshow={"slide_type": "subslide"}
# Which direction should be the fast one? To fit data by maximum likelihood one scores many points:
# take the masked form. A guide in variational inference samples, and scores only its own samples,
# for which the noise is known: turn the map around (the *inverse autoregressive flow*). Coupling
# layers are fast both ways.
#
# ### Always the same coordinate
# **Predict first:** four coupling layers, and all keep $x_1$; nobody flips. Training may last as
# long as one likes. Where does the gap end?

# %%
predict("never_flip", "at zero, only later", "above a number that no training reduces")

# %%
one_sided = Chain(*(Coupling(2, flip=False) for _ in range(4)))
stuck = Flow(one_sided, GaussianBase(2), x_train.mean(0), x_train.std(0)).to(device)
optimiser = torch.optim.Adam(stuck.parameters(), 5e-3, fused=True)
for step in range(150):
    _ = train_step(stuck, (x_train[step % 10 :: 10],), optimiser)
stuck_gap, _ = gap_to_truth(stuck.log_prob(x_test).detach())
print(f"gap of a flow that never flips: {stuck_gap:.2f} nats after 150 steps")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "never_flip",
    "above a number that no training reduces",
    "$z_1$ is $x_1$, standardised: under such a model $x_1$ is Gaussian, whatever the weights are.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 5: the price of never flipping (25 minutes)
# How large is that number? The gap is at least the divergence of the first coordinates alone,
# $\mathrm{KL}(p(x_1)\,\|\,N(\mu, \sigma^2))$, with the best $\mu$ and $\sigma$: those of $x_1$.
# Write it for any density of the plane that lies in a box, by sums over the `grid` of section 3.


# %% tags=["exercise"]
def my_bound(log_prob, box: tuple) -> float:
    """log_prob: (n, 2) -> (n,); box: (left, right, bottom, top) -> nats."""
    return ...


checks.check_same_mask(my_bound)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `grid(box, 500)` orders the points with $x_2$ running fastest. Reshape the densities to
# $(500, 500)$, and add over the axis of $x_2$. Which factor makes an integral of the sum?
# </details>
#
# <details><summary>Hint 2</summary>
#
# For the best $\mu$ and $\sigma$ the divergence is the difference of two entropies. That of a
# Gaussian is $\tfrac12 \log(2\pi e \sigma^2)$.
# </details>
#
# <details><summary>Hint 3</summary>
#
# Far outside, a density can be 0 for the computer, and `0 * log(0)` is NaN. `torch.xlogy(p, p)`
# knows the limit.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_bound(log_prob, box: tuple) -> float:
    points, cell = grid(box, 500)
    width, height = (box[1] - box[0]) / 500, (box[3] - box[2]) / 500
    p_1 = log_prob(points).cpu().double().exp().reshape(500, 500).sum(1) * height  # (500,)
    x_1 = points[::500, 0].cpu().double()
    mean = (p_1 * x_1).sum() * width
    variance = (p_1 * (x_1 - mean) ** 2).sum() * width
    entropy_1 = -torch.xlogy(p_1, p_1).sum() * width
    return (0.5 * torch.log(2 * math.pi * math.e * variance) - entropy_1).item()


assert checks.check_same_mask(course_bound)

# %%
bound = my_bound if checks.check_same_mask(my_bound) else course_bound
least_gap = float(bound(true_log_prob, BOX))
print(f"at least {least_gap:.3f} nats; the flow above {stuck_gap:.2f}")
assert stuck_gap > least_gap - 0.03

# %% [markdown] slideshow={"slide_type": "subslide"}
# The flow above is far from the bound, because layers that never flip are worth no more than one:
# given $x_1$, their $x_2$ is Gaussian as well.
#
# **Permutations.** Autoregressive blocks have the same illness: the first coordinate in the order
# is only scaled and shifted by constants. So the order changes from block to block. In the Jacobian
# you can see it: one block is triangular, two with different orders are not.


# %%
def jacobian_of(f: nn.Module, x: Tensor) -> Tensor:
    """∂z/∂x at one point x (d,) -> (d, d)."""
    return torch.autograd.functional.jacobian(lambda x: f(x[None])[0][0], x)


torch.manual_seed(SEED)
blocks = maf(3).to(device)
one, two = (jacobian_of(Chain(*blocks.layers[:i]), far[0, [0, 1, 0]] / 10) for i in (1, 2))
assert torch.allclose(one.triu(1), torch.zeros_like(one))
assert two.triu(1).abs().max() > 1e-4

# %% [markdown] slideshow={"slide_type": "subslide"}
# Now the moons, five times: another training set and other first weights each time.


# %%
def measured(flow: Flow, seconds: float) -> tuple[Flow, dict[str, float]]:
    """A fitted flow and its row of the table, on the common test set."""
    log_q = flow.log_prob(x_test)
    return flow, {
        "parameters": sum(p.numel() for p in flow.parameters()),
        "seconds": seconds,
        "nll": -log_q.mean().item(),
        "gap": gap_to_truth(log_q)[0],
        "milliseconds": 1000 * seconds_for(lambda: flow.sample(10_000)),
    }


def trial(kind: str, seed: int, **options) -> tuple[Flow, dict[str, float]]:
    """Fit one flow to its own training set and measure it."""
    train, val = draw_moons(100 + seed, N_TRAIN), draw_moons(200 + seed, N_TEST // 5)
    start = time.perf_counter()
    flow = fit_flow(train, val, kind=kind, seed=seed, **options)
    return measured(flow, time.perf_counter() - start)


# %%
seeds = range(SEED, SEED + SEEDS)
settings = {"components": 1, "steps": MAF_STEPS, "batch": 512}
fits = {"masked autoregressive (Pyro)": [trial("maf", seed, **settings) for seed in seeds]}
maf_gaps = [row["gap"] for _, row in fits["masked autoregressive (Pyro)"]]
print("gaps of MAF:", *(f"{gap:.2f}" for gap in maf_gaps), "nats")
assert min(maf_gaps) > 0.05 and max(maf_gaps) < 1.5, EXPECTED

# %% [markdown]
# Three affine blocks leave a gap of tenths of a nat. (That is no fair race: they are fewer, and
# were trained for fewer steps, than the RealNVP of section 4. In the plane such a block *is* an
# affine coupling.) The original practical stopped here. It reported 0.48 to 0.50 nats on *training*
# points, with wider networks (2 × 128 hidden units). Against the entropy that is a gap of about
# 0.2.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 Splines, and one table
# Splines bend more than $e^s x + t$. A **neural spline flow** (Durkan and others 2019) moves each
# coordinate by a monotone curve through a few knots. Between two knots the curve is a quotient of
# two quadratic polynomials: it has an explicit inverse and derivative. A masked network of the
# coordinates *before* it places the knots. Outside $[-5, 5]$ the curve is the identity.
#
# We take it from `zuko`, which is maintained; its transforms map data to latent, as ours do. The
# smallest slope is set to 0.01, above the default: flat pieces are what makes inverses lose digits.


# %%
import zuko


class Spline(nn.Module):
    """Autoregressive rational-quadratic splines f, data to latent, from zuko."""

    def __init__(self, d: int) -> None:
        super().__init__()
        options = {"transforms": 2, "bins": 8, "slope": 1e-2, "hidden_features": (64, 64)}
        self.flow = zuko.flows.NSF(d, **options).transform

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.flow().call_and_ladj(x)  # z (n, d), log |det| (n,)

    def inverse(self, z: Tensor) -> Tensor:
        return self.flow().inv(z)


# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict first:** eight affine layers by hand and two layers of splines train for about the same
# time. Whose gap is smaller?

# %%
predict("splines", "RealNVP's, clearly", "the splines', clearly", "both are about the same")

# %% [markdown]
# RealNVP gets its five trials, too; the first is the flow of section 4. Then the splines.

# %%
settings = {"components": 1, "steps": REALNVP_STEPS, "batch": 512}
fits["RealNVP by hand"] = [measured(realnvp_flow, realnvp_seconds)]
fits["RealNVP by hand"] += [trial("realnvp", seed, **settings) for seed in seeds[1:3]]

# %%
fits["RealNVP by hand"][3:] = [trial("realnvp", seed, **settings) for seed in seeds[3:]]

# %%
settings = {"components": 1, "steps": SPLINE_STEPS, "batch": 512}
fits["spline (zuko)"] = [trial("spline", seed, **settings) for seed in seeds[:2]]

# %%
fits["spline (zuko)"][2:4] = [trial("spline", seed, **settings) for seed in seeds[2:4]]

# %%
fits["spline (zuko)"][4:] = [trial("spline", seed, **settings) for seed in seeds[4:]]


# %% slideshow={"slide_type": "subslide"}
def gaussian_trial(seed: int) -> dict[str, float]:
    """The worst sensible model, in the same columns."""
    train, start = draw_moons(100 + seed, N_TRAIN), time.perf_counter()
    model = dist.MultivariateNormal(train.mean(0), train.T.cov())
    seconds, log_q = time.perf_counter() - start, model.log_prob(x_test)
    return {
        "parameters": 5,
        "seconds": seconds,
        "nll": -log_q.mean().item(),
        "gap": gap_to_truth(log_q)[0],
        "milliseconds": 1000 * seconds_for(lambda: model.sample((10_000,))),
    }


# %% jupyter={"source_hidden": true}
rows = {"one Gaussian": [gaussian_trial(seed) for seed in seeds]}
rows |= {name: [row for _, row in pairs] for name, pairs in fits.items()}
columns = ("parameters", "seconds", "nll", "gap", "milliseconds")
table = "| model | parameters | training (s) | test NLL (nats) | gap to the truth (nats) "
table += "| 10,000 samples (ms) |\n|" + " --- |" * 6
gaps = {}
for name, trials in rows.items():
    count, seconds, nll, gap, ms = (torch.tensor([row[c] for row in trials]) for c in columns)
    gaps[name], error = mean_and_error(gap)
    table += f"\n| {name} | {count[0]:,.0f} | {seconds.mean():.1f} | {nll.mean():.3f} "
    table += f"| {gaps[name]:.3f} ± {error:.3f} | {ms.mean():.1f} |"
display(
    Markdown(table + f"\n| *the truth* | – | – | {-true_log_prob(x_test).mean():.3f} | 0 | – |")
)

# %% tags=["answer", "mistake-D5", "mistake-F6"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "splines",
    "both are about the same",
    "Both come within about 0.03 nats of the truth; part of what they miss lies between the moons.",
)
assert gaps["RealNVP by hand"] < 0.04, EXPECTED
assert gaps["spline (zuko)"] < 0.04, EXPECTED
order = [gaps[name] for name in ("RealNVP by hand", "masked autoregressive (Pyro)", "one Gaussian")]
assert order == sorted(order), EXPECTED

# %% tags=["slides"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
hand_gap, spline_gap = (
    mean_and_error(torch.tensor([row["gap"] for row in rows[name]]))
    for name in ("RealNVP by hand", "spline (zuko)")
)
publish(
    realnvp="{:.3f} ± {:.3f}".format(*hand_gap),
    spline="{:.3f} ± {:.3f}".format(*spline_gap),
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Read the column of the gaps (mean over five seeds ± standard error). The ± covers training sets
# and first weights only. All rows share one test set. Its own error comes on top; sections 3 and 4
# printed it for the Gaussian and for RealNVP.
#
# MAF and this spline flow sample in $d$ passes per layer, coupling layers in one. In the plane that
# is no large difference: the last column measures width and library code as well.
#
# We repeat two tests of section 4, the round trip of the far points and the integral, on the first
# trained flow of each kind. The spline flow has to pass the round trip in 64-bit numbers; for 32
# bits we only print its error.

# %%
for name, pairs in fits.items():
    flow = pairs[0][0]
    back, mass = round_trip_error(flow, far), integrate(flow.log_prob, BIG_BOX, 500)
    print(f"{name}: round trip {back:.0e}, integral {mass:.4f}")
    assert (back < 1e-4 or name.startswith("spline")) and abs(mass - 1) < 0.005, EXPECTED
exact = round_trip_error(copy.deepcopy(flow).cpu().double(), far.cpu().double())
print(f"{name}, in 64 bits: round trip {exact:.0e}")
assert name.startswith("spline") and exact < 1e-6

# %% [markdown]
# The spline flow is a bijection, as 64 bits show. In 32 bits it may lose a few thousandths on the
# way there and back, far from the data: in places it is so flat that different points get the same
# 32-bit number. *Invertible on paper* is not yet *invertible in the machine*. Why this flow needs
# such flat places is the subject of section 8.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 8 The filament
# A flow maps the plane onto itself, continuously in both directions (a *homeomorphism*). Such a map
# cannot tear. The support of a Gaussian base is connected, so two pieces that are exactly
# disconnected cannot be reached. Our moons are blurred: their density is positive everywhere, and
# smooth, so there is a bijection without any gap (the *Knothe–Rosenblatt map*, one coordinate after
# the other). But it is enormously steep. A map that is less steep must leave a thread. Let $f^{-1}$
# stretch no distance more than $L$ times, and let two pieces of equal probability under the flow
# lie a distance $D$ apart. Then, with a standard Gaussian base, all the rest holds at least
# $$2\,\Phi\Bigl(\frac{D}{2L}\Bigr) - 1 \approx 0.4\,\frac{D}{L} \quad \text{for small } D/L.$$
# In $z$ the two pieces are at least $D/L$ apart, and of all such pairs two half-spaces leave least
# between them. On the map of section 1 everything is exact, with the pieces $|x| > D/2$:

# %% tags=["mistake-F2"]
half = torch.linspace(0.01, 2, 200)  # D / 2
steepness = (1 / slope_cubic(torch.linspace(-3, 3, 601))).max()  # L: f is flattest at zero
rest = torch.erf(f_cubic(half) / 2**0.5)  # 2 Φ(f) - 1: what lies between the pieces
lowest = torch.erf(half / steepness / 2**0.5)
assert (rest >= lowest).all() and torch.isclose(rest[0], lowest[0], rtol=0.01)

# %% [markdown] slideshow={"slide_type": "subslide"}
# The flow pays for the thread twice. The thread itself holds probability that is missing on the
# moons. And near the place where it leaves a moon, the map has to stretch enormously, so that the
# edge of the moon is blurred. More layers can make the map steeper, and so the thread thinner; but
# a map with huge derivatives loses digits in its inverse. None of this comes from preserving
# volume.
#
# **Predict first:** which base would spare the flow its thread?

# %%
predict(
    "base", "a wider Gaussian", "a uniform density", "several Gaussians", "none: flows leave one"
)

# %% [markdown]
# How much probability hangs in the thread? Let the **gap region** be all points in the box around
# the moons that are more than four noise widths from both half circles. The truth has almost
# nothing there. We integrate $q$ over it.


# %%
def to_half_circle(x: Tensor) -> Tensor:
    """Distance of points (n, 2) from the upper moon's half circle, (n,)."""
    to_ends = torch.hypot(x[:, 0].abs() - 1, x[:, 1])
    return torch.where(x[:, 1] >= 0, (x.norm(dim=1) - 1).abs(), to_ends)


# %% [markdown] slideshow={"slide_type": "subslide"}
# Above the horizontal axis the distance from the upper half circle is that from the full circle,
# $|\,\|x\| - 1\,|$; below it the nearest point is one of the two ends. The lower moon is the upper
# one, turned around: $x \mapsto (1, \tfrac12) - x$ exchanges the two and keeps all distances. So
# the distance from the lower moon is the distance of the turned point from the upper one.


# %%
def leak(log_density) -> float:
    """Probability between the moons: more than 4 noise widths away from both half circles."""
    x, cell = grid((-1.0, 2.0, -0.5, 1.0), 500)
    away = torch.minimum(to_half_circle(x), to_half_circle(x.new_tensor([1.0, 0.5]) - x))
    between = x[away > 4 * NOISE]
    return cell * sum(log_density(part).exp().sum().item() for part in between.split(10_000))


scores = {"the truth": true_log_prob, "RealNVP, one Gaussian": realnvp_flow.log_prob}
scores["spline, one Gaussian"] = fits["spline (zuko)"][0][0].log_prob
leaks = {name: leak(score) for name, score in scores.items()}
print("\n".join(f"{name}: {value:.1e}" for name, value in leaks.items()))
assert leaks["the truth"] < 1e-4, EXPECTED
assert min(leaks["RealNVP, one Gaussian"], leaks["spline, one Gaussian"]) > 5e-4, EXPECTED

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "base", "several Gaussians", "Then nothing has to be pulled apart; the table below shows it."
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What helps** is a base that has several pieces itself: a mixture of Gaussians, with means,
# scales and weights that are trained along with the layers,
# $$p_z(z) = \sum_k \pi_k\,N(z; \mu_k, \operatorname{diag} \sigma_k^2).$$
# The change of variables does not care which base it is given. Since $f$ does not move points far
# at first, the mixture can begin at clusters of the (standardised) data. We take thirty-two parts,
# far more than there are moons: a moon is bent, and one Gaussian fits a short piece of it.


# %%
class Mixture(nn.Module):
    """A mixture of Gaussians as base density; all its parameters are trained."""

    def __init__(self, mean: Tensor, scale: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(mean), nn.Parameter(scale.log())  # (c, d)
        self.logits = nn.Parameter(weight.log())  # (c,)

    def distribution(self) -> dist.Distribution:
        parts = dist.Independent(dist.Normal(self.mean, self.log_scale.exp()), 1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), parts)


# %%
from sklearn.cluster import KMeans


def start_mixture(x: Tensor, components: int, seed: int) -> Mixture:
    """A mixture on the k-means clusters of standardised points x (n, d)."""
    components = min(components, 1 + len(x) // 50)
    means = KMeans(components, n_init=1, random_state=seed).fit(x.cpu().numpy())
    label = torch.as_tensor(means.labels_, device=x.device).long()
    member = F.one_hot(label, components).to(x)  # (n, c)
    mean = torch.as_tensor(means.cluster_centers_).to(x)  # (c, d)
    variance = member.T @ (x - mean[label]).square() / member.sum(0)[:, None]
    return Mixture(mean, variance.sqrt().clamp(min=0.05), member.mean(0))


# %%
best_flow, best = trial("spline", SEED, components=32, steps=BEST_STEPS)
scores["spline, mixture of Gaussians"] = best_flow.log_prob
gap, error = gap_to_truth(best_flow.log_prob(x_test))
print(f"gap {gap:.4f} ± {error:.4f} nats after {best['seconds']:.0f} s")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Would a mixture have done it alone? We fit 32 Gaussians without any layers: once with axes along
# the coordinates, as in the base, and once with all their covariances.

# %%
from sklearn.mixture import GaussianMixture

for kind in ("diag", "full"):
    alone = GaussianMixture(32, covariance_type=kind, random_state=SEED).fit(x_train.cpu().numpy())
    scores[f"32 Gaussians ({kind}), no layers"] = lambda x, mixture=alone: torch.as_tensor(
        mixture.score_samples(x.cpu().numpy())
    ).to(x)

# %% jupyter={"source_hidden": true}
table = (
    "| density | probability between the moons | gap to the truth (nats) |\n" + "| --- " * 3 + "|"
)
for name, score in scores.items():
    leaks[name], (there, error) = leak(score), gap_to_truth(score(x_test))
    table += f"\n| {name} | {leaks[name]:.1e} | {there:.3f} ± {error:.3f} |"
display(Markdown(table))

# %% tags=["slides"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
mixture = scores["32 Gaussians (full), no layers"]
publish(
    mixture_base="{:.4f} ± {:.4f}".format(*gap_to_truth(best_flow.log_prob(x_test))),
    mixture_alone="{:.3f} ± {:.3f}".format(*gap_to_truth(mixture(x_test))),
)

# %% tags=["mistake-F2"]
assert gap < 0.018, EXPECTED
assert leaks["spline, mixture of Gaussians"] < leaks["spline, one Gaussian"] / 10, EXPECTED
assert round_trip_error(best_flow, far) < 1e-4, EXPECTED
assert abs(integrate(best_flow.log_prob, BIG_BOX, 500) - 1) < 0.005, EXPECTED
assert gap_to_truth(scores["32 Gaussians (diag), no layers"](x_test))[0] > gap + 0.005, EXPECTED
assert gap_to_truth(scores["32 Gaussians (full), no layers"](x_test))[0] < 0.03, EXPECTED

# %% tags=["mistake-F5"] jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Three maps of the logarithm of the density around the moons. RealNVP leaves a bright thread between them, the spline a faint veil; with the mixture base the space between is dark."
fig, axes = plt.subplots(1, 3, figsize=(10, 2.6), sharey=True)
shown = {"RealNVP": realnvp_flow, "spline": fits["spline (zuko)"][0][0]}
shown["spline, mixture base"] = best_flow
for ax, (title, flow) in zip(axes, shown.items(), strict=True):
    log10_q = flow.log_prob(grid(BOX, 150)[0]).reshape(150, 150).T.cpu() / math.log(10)
    _ = ax.imshow(log10_q, origin="lower", extent=BOX, vmin=-4, vmax=0, aspect="auto")
    _ = ax.set(title=title, xlabel="$x_1$")
    ax.grid(False)
_ = axes[0].set_ylabel("$x_2$")
_ = fig.colorbar(ax.images[0], ax=axes, label=r"$\log_{10}$ density", extend="min")
assert all(ax.images[0].origin == "lower" for ax in axes)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Logarithmic colours make visible what is thin: RealNVP leaves a thread between the moons, the
# spline a veil. With the mixture base both are nearly gone. They held 0.3 to 0.6 per cent of the
# probability. This costs 0.003 to 0.006 nats: only a part of what the gap fell by. From the second
# picture to the third the batch was doubled, too, and a better base also sharpens the edges of the
# moons. And the map need not be so steep and flat any more: its round trip is good in 32 bits
# again.
#
# Now read the last two rows of the table. The base alone is good, and the layers halve its gap. But
# 32 Gaussians with full covariances, fitted in seconds by expectation maximisation (Dempster and
# others 1977), are as good as our best flow. In the plane one can tile a density with Gaussians.
# Flows are for cases where that takes too many of them. **Always run the simple model beside the
# deep one.**
#
# ### Exercise 6: a conditional flow (30 minutes)
# Often a density must depend on something known: here, on which moon a point belongs to. Build a
# flow $q(x \mid m)$ for labels $m = 0, 1, \dots$ that can bend: its networks see the label, too.
# The base is $N(0, I)$; the points are standardised already. `F.one_hot(label, labels)` makes of
# each label a row of zeros and a one. When it has passed, it learns both moons.


# %% tags=["exercise"]
class MyConditional(nn.Module):
    """q(x | label) for points x (n, d) and whole numbers label (n,) below ``labels``."""

    def __init__(self, d: int, labels: int) -> None:
        super().__init__()

    def log_prob(self, x: Tensor, label: Tensor) -> Tensor:
        return ...  # (n,), in nats

    def sample(self, label: Tensor) -> Tensor:
        return ...  # (n, d), one point for each label


my_conditional = MyConditional  # the class, not a flow
checks.check_conditional(my_conditional)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# A list of networks, `nn.ModuleList(steering_network(…) for …)`, one for each layer. What a layer
# keeps may stand beside the label: `torch.cat((kept, one_hot), -1)`.
# </details>
#
# <details><summary>Hint 2</summary>
#
# The label is never moved. So the Jacobian, its determinant and the inverse of each layer are those
# of exercise 3.
# </details>
#
# <details><summary>Hint 3</summary>
#
# To sample, draw `torch.randn(len(label), d, device=label.device)` and run the layers in reverse. A
# method `steer(i, kept, label)` serves both ways.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
class Conditional(nn.Module):
    """q(x | label) for points x (n, d) and whole numbers label (n,) below ``labels``."""

    def __init__(self, d: int, labels: int, layers: int = 6) -> None:
        super().__init__()
        self.d, self.labels = d, labels
        self.nets = nn.ModuleList(steering_network(d + labels, 2 * d, 32) for _ in range(layers))

    def steer(self, i: int, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        moved = (torch.arange(self.d, device=x.device) % 2 == i % 2).to(x)  # (d,): ones and zeros
        seen = torch.cat((x * (1 - moved), F.one_hot(label, self.labels).to(x)), -1)
        s, t = self.nets[i](4 * torch.tanh(seen / 4)).chunk(2, -1)
        return 2 * torch.tanh(s / 2) * moved, t * moved  # (n, d) each, zero for what is kept

    def log_prob(self, x: Tensor, label: Tensor) -> Tensor:
        log_det = x.new_zeros(len(x))
        for i in range(len(self.nets)):
            s, t = self.steer(i, x, label)
            x, log_det = x * s.exp() + t, log_det + s.sum(-1)
        return dist.Normal(0.0, 1.0).log_prob(x).sum(-1) + log_det

    def sample(self, label: Tensor) -> Tensor:
        x = torch.randn(len(label), self.d, device=label.device)
        for i in reversed(range(len(self.nets))):
            s, t = self.steer(i, x, label)
            x = (x - t) * torch.exp(-s)
        return x


assert checks.check_conditional(Conditional)

# %%
if checks.check_conditional(my_conditional):
    Conditional = my_conditional
moons = make_two_moons(N_TRAIN, noise=NOISE, seed=100 + SEED)  # x_train again, with its labels
moon, shift, scale = moons.moon.to(device), x_train.mean(0), x_train.std(0)
torch.manual_seed(SEED)
conditional = Conditional(2, 2).to(device)
optimiser = torch.optim.Adam(conditional.parameters(), 1e-2)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, CONDITIONAL_STEPS)
for _ in (shown := bar(range(CONDITIONAL_STEPS), desc="conditional")):
    some = torch.randint(N_TRAIN, (512,), device=device)
    loss = train_step(conditional, ((x_train[some] - shift) / scale, moon[some]), optimiser)
    schedule.step()
    shown.set_postfix(loss=f"{loss:.2f}", refresh=False)
_ = conditional.requires_grad_(False)

# %% [markdown]
# Beside it two spline flows, one for each moon. Each pair is joined with weights ½, and scored:

# %%
train, val = (make_two_moons(len(x), noise=NOISE, seed=seed + SEED)
              for x, seed in ((x_train, 100), (x_val, 200)))  # fmt: skip
settings = {"components": 1, "steps": CONDITIONAL_STEPS, "batch": 512, "seed": SEED}
per_moon = [
    fit_flow(*(part.x[part.moon == m].to(device) for part in (train, val)), **settings)
    for m in (0, 1)
]
given = [torch.full((N_TEST,), m, device=device) for m in (0, 1)]
log_q = {
    "one conditional flow": [conditional.log_prob((x_test - shift) / scale, m) for m in given],
    "a spline flow for each moon": [flow.log_prob(x_test) for flow in per_moon],
}
log_q["one conditional flow"] = [q - scale.log().sum() for q in log_q["one conditional flow"]]
for name, pair in log_q.items():
    joined = gap_to_truth(torch.stack(pair).logsumexp(0) - math.log(2))
    print("{}: gap {:.3f} ± {:.3f} nats".format(name, *joined))
    assert joined[0] < gaussian_gap[0] - 0.5, EXPECTED

# %% [markdown]
# With labels, no thread is needed: each moon is one piece. But the labels are knowledge that the
# flows above did not have.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 10 Are the samples any good?
# For real data there is no $p$ to compare with. A **classifier two-sample test** (Lopez-Paz and
# Oquab 2017) needs samples only: mix data with samples of the model, train a classifier to tell
# them apart, and look at its accuracy on held-out points. One half means: it cannot tell.
#
# **Predict first:** a flow with a gap of 0.02 nats. How often will a classifier be right?

# %%
predict("classifier", "51 times in 100", "60 times in 100", "75 times in 100")

# %% [markdown]
# Here we know more. No classifier can beat the rule "data, if $p(x) > q(x)$". Its accuracy is
# $\tfrac12 + \tfrac12 \mathrm{TV}(p, q)$, with the total variation distance TV. So the table shows
# what a classifier found, and what there was to find.


# %%
from sklearn.neighbors import KNeighborsClassifier


def two_sample_accuracy(drawn: Tensor, log_q) -> tuple[float, float]:
    """Held-out accuracy of a nearest-neighbour classifier, and the best possible accuracy."""
    n = len(x_test)
    x = torch.cat((x_test, drawn))
    is_data = (torch.arange(2 * n) < n).numpy()
    train = (torch.arange(2 * n) % 2 == 0).numpy()
    points = x.cpu().numpy()
    classifier = KNeighborsClassifier(50).fit(points[train], is_data[train])
    found = classifier.score(points[~train], is_data[~train])
    rule = (true_log_prob(x) > log_q(x)).cpu().numpy()
    return float(found), float((rule == is_data).mean())


# %% jupyter={"source_hidden": true}
torch.manual_seed(SEED)
rivals = {"one Gaussian": (gaussian.sample((len(x_test),)), gaussian.log_prob)}
for name, flow in (("RealNVP by hand", realnvp_flow), ("spline, mixture base", best_flow)):
    rivals[name] = flow.sample(len(x_test)), flow.log_prob
accuracy = {name: two_sample_accuracy(*rival) for name, rival in rivals.items()}
noise_of_accuracy = 0.5 / math.sqrt(len(x_test))
lines = "\n".join(f"| {name} | {a:.3f} | {b:.3f} |" for name, (a, b) in accuracy.items())
head = f"| samples from | classifier (± {noise_of_accuracy:.3f}) | best possible |\n"
display(Markdown(head + "| --- | --- | --- |\n" + lines))

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "classifier", "51 times in 100", "Hardly more often than a coin; the best one a little more."
)
assert all(found < limit + 4 * noise_of_accuracy for found, limit in accuracy.values())
assert accuracy["one Gaussian"][0] > 0.7, EXPECTED
assert accuracy["spline, mixture base"][0] < 0.53, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The last column warns: "the test found little" is a statement about the test, too. And the order
# need not be that of the gaps: accuracy measures total variation, the gap punishes missing density
# more.
#
# ### Exercise 8: the floor from samples alone (15 minutes)
# The entropy, too, can be estimated without a density. For $n$ points in the plane, with $r_i$ the
# distance of point $i$ from its nearest neighbour,
# $$\hat H = \log(n - 1) + \gamma + \log \pi + \frac{2}{n} \sum_i \log r_i$$
# (Kozachenko and Leonenko 1987; $\gamma = 0.5772157$ is Euler's constant). No point lies twice. Our
# points are 32-bit numbers.


# %% tags=["exercise"]
def my_entropy(x: Tensor) -> Tensor:
    """x (n, 2) -> entropy (), in nats."""
    return ...


checks.check_entropy(my_entropy)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `torch.cdist(x, x)` gives all distances. A point's nearest neighbour must not be itself: look at
# `fill_diagonal_`, or at the second smallest.
# </details>
#
# <details><summary>Hint 2</summary>
#
# `torch.cdist` of many points computes with squares. In 32 bits small distances are rounded to
# zero; in 64 they are not.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_entropy(x: Tensor) -> Tensor:
    x = x.double()
    nearest = torch.cdist(x, x).fill_diagonal_(math.inf).min(1).values  # (n,)
    return math.log(len(x) - 1) + 0.5772157 + math.log(math.pi) + 2 * nearest.log().mean()


assert checks.check_entropy(course_entropy)

# %% [markdown]
# All distances are $n^2$ numbers, so we take five parts of the training points; their scatter tells
# the error.

# %%
estimate = my_entropy if checks.check_entropy(my_entropy) else course_entropy
parts = torch.tensor([float(estimate(part.cpu())) for part in x_train[:10_000].chunk(5)])
found, error = mean_and_error(parts)
print(f"from samples {found:.3f} ± {error:.3f}, exact {entropy:.3f} nats")
assert abs(found - entropy) < 0.12, EXPECTED

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 11 Inference by simulation
# Many models are programs: give one parameters $\theta$, and it draws data $y$. Nobody can write
# down its likelihood. But pairs are cheap: draw $\theta$ from the prior, then $y$ from the
# simulator. Fit a flow $q(\theta \mid y)$, whose networks see $y$ as well, to such pairs by maximum
# likelihood:
# $$E_{p(\theta, y)}[-\log q(\theta \mid y)]
# = E_{p(y)}\,\mathrm{KL}\bigl(p(\theta \mid y)\,\|\,q(\theta \mid y)\bigr) + \text{a constant}.$$
# Its minimum is the posterior, for *all* $y$ at once: the inference is **amortised**.
#
# Our simulator has a likelihood, so that we can check: $\theta \sim N(0, I)$ in the plane, and one
# measurement $y$ of $\theta_2 + \theta_1^2$ with noise 0.3. Many $\theta$ explain it.


# %%
def draw_pairs(n: int) -> tuple[Tensor, Tensor]:
    """Parameters (n, 2) from the prior, and a measurement of each (n, 1)."""
    theta = torch.randn(n, 2, device=device)
    noise = 0.3 * torch.randn(n, 1, device=device)
    return theta, theta[:, 1:] + theta[:, :1] ** 2 + noise


# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 9: one flow for every $y$ (20 minutes)
# Write a flow whose networks see $y$: the density of each row of $\theta$ given the same row of
# $y$, and $s$ draws for each row of $y$. When it has passed, it learns both posteriors below.


# %% tags=["exercise"]
class MyPosterior(nn.Module):
    """q(theta | y) for theta of d coordinates and y of c."""

    def __init__(self, d: int, c: int) -> None:
        super().__init__()

    def log_prob(self, theta: Tensor, y: Tensor) -> Tensor:
        return ...  # theta (n, d), y (n, c) -> (n,), in nats

    def sample(self, y: Tensor, s: int) -> Tensor:
        return ...  # y (n, c) -> (s, n, d)


my_posterior = MyPosterior  # the class, not a flow
checks.check_amortised(my_posterior)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# A spline flow of zuko's sees what is called its *context*: how many numbers of it, `NSF` is told.
# Which of the two, $\theta$ or $y$, is the context here?
# </details>
#
# <details><summary>Hint 2</summary>
#
# Called with nothing, such a flow is one distribution. Called with a context of $n$ rows it is $n$
# distributions. What does `sample((s,))` of $n$ distributions return?
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
class Posterior(nn.Module):
    """q(theta | y) for theta of d coordinates and y of c."""

    def __init__(self, d: int, c: int) -> None:
        super().__init__()
        self.flow = zuko.flows.NSF(d, context=c, hidden_features=(64, 64))

    def log_prob(self, theta: Tensor, y: Tensor) -> Tensor:
        return self.flow(y).log_prob(theta)

    def sample(self, y: Tensor, s: int) -> Tensor:
        return self.flow(y).sample((s,))


assert checks.check_amortised(Posterior)

# %%
if checks.check_amortised(my_posterior):
    Posterior = my_posterior


def learn_posterior(pairs, steps: int, batch: int, rate: float = 1e-2) -> nn.Module:
    """Maximum likelihood on fresh pairs; pairs(n) -> theta (n, d), y (n, c)."""
    torch.manual_seed(SEED)
    theta, y = pairs(1)
    q = Posterior(theta.shape[1], y.shape[1]).to(device)
    optimiser = torch.optim.Adam(q.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    for _ in (shown := bar(range(steps), desc="pairs")):
        loss = float(train_step(q, pairs(batch), optimiser))
        schedule.step()
        shown.set_postfix(loss=f"{loss:.2f}", refresh=False)
    return q.requires_grad_(False)


# %%
banana_posterior = learn_posterior(draw_pairs, CONDITIONAL_STEPS, 512)

# %% [markdown] slideshow={"slide_type": "subslide"}
# No pair was used twice, so nothing could be learnt by heart. And nothing was said about the $y$
# that we shall ask for.
#
# **Predict first:** how far is $q(\theta \mid y = 1)$ from the exact posterior?

# %%
predict("amortised", "nats", "tenths of a nat", "about a hundredth of a nat")


# %%
def log_joint(theta: Tensor, y: Tensor | float = 1.0) -> Tensor:
    """log p(theta, y): theta (n, 2) -> (n,)."""
    prior = dist.Normal(0.0, 1.0).log_prob(theta).sum(-1)
    return prior + dist.Normal(theta[:, 1] + theta[:, 0] ** 2, 0.3).log_prob(
        torch.as_tensor(y).to(theta)
    )


def exact_posterior(log_joint, y: Tensor, box: tuple, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """On n² points of a box: theta (n², 2), log p(theta | y), and p times the area of a cell."""
    theta, cell = grid(box, n)
    log_p = log_joint(theta, y).double()
    log_p = log_p - log_p.logsumexp(0) - math.log(cell)
    return theta, log_p, log_p.exp() * cell


def kl_at(q: nn.Module, log_joint, y: Tensor, box: tuple, n: int = 200) -> float:
    """KL(p(theta | y) || q(theta | y)) by quadrature, nats; y (c,)."""
    theta, log_p, weight = exact_posterior(log_joint, y, box, n)
    there = weight > 1e-12
    log_q = q.log_prob(theta[there], y.expand(int(there.sum()), -1))
    return (weight[there] * (log_p[there] - log_q)).sum().item()


# %%
PLANE = (-4.0, 4.0, -9.0, 4.0)
asked = torch.tensor([[0.0], [1.0], [2.0]], device=device)
for y in asked:
    print(f"y = {y.item():.0f}: KL {kl_at(banana_posterior, log_joint, y, PLANE):.4f} nats")
kls = torch.tensor([kl_at(banana_posterior, log_joint, y, PLANE) for y in draw_pairs(20)[1]])
mean_kl, error = mean_and_error(kls)
print(f"twenty simulated y: {mean_kl:.4f} ± {error:.4f} nats")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("amortised", "about a hundredth of a nat", "It had never seen this y, but many like it.")
assert mean_kl < 0.05, EXPECTED

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Three heat maps of exact posteriors, at y of 0, 1 and 2. With growing y the arc widens into a bent band. Orange dots, draws of one and the same flow, follow it each time."
fig, axes = plt.subplots(1, 3, figsize=(10, 3), sharex=True, sharey=True)
torch.manual_seed(SEED)
dots = banana_posterior.sample(asked, 300).cpu()  # (s, 3, 2)
for i, (ax, y) in enumerate(zip(axes, asked, strict=True)):
    p = exact_posterior(log_joint, y, (-3, 3, -5, 3), 200)[1].exp().reshape(200, 200).T.cpu()
    _ = ax.imshow(p, origin="lower", extent=(-3, 3, -5, 3), aspect="auto")
    _ = ax.plot(*dots[:, i].T, ".", ms=3, color=PALETTE["orange"], rasterized=True)
    _ = ax.set(title=f"$y = {y.item():.0f}$", xlabel=r"$\theta_1$", xlim=(-3, 3), ylim=(-5, 3))
    ax.grid(False)
_ = axes[0].set_ylabel(r"$\theta_2$")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Heat: the exact posterior. Dots: one flow, asked three times.
#
# **Without quadrature** we still have pairs. Draw $\theta^*$ and $y$, then 99 draws of
# $q(\theta \mid y)$. If $q$ is the posterior, $\theta^*$ is one more draw from it. So its **rank**
# among them, in any quantity, is uniform on 0 … 99 (*simulation-based calibration*, Talts and
# others 2018).
#
# **Predict first:** somebody's "posterior" ignores $y$ and returns the prior. What do the ranks of
# $\theta_1$ and $\theta_2$ say?

# %%
predict("ranks", "far from uniform", "a little off", "uniform: they see nothing")

# %%
from scipy.stats import binom

torch.manual_seed(SEED)
star, y = draw_pairs(1000)  # (n, 2), (n, 1)
rivals = {
    "the flow": (banana_posterior.sample(y, 99), banana_posterior.log_prob),
    "the prior": (draw_pairs(99_000)[0], lambda t, y: dist.Normal(0.0, 1.0).log_prob(t).sum(-1)),
}
quantities = {r"$\theta_1$": lambda t, y: t[:, 0], r"$\theta_2$": lambda t, y: t[:, 1]}
quantities[r"$\log q(\theta\mid y)$"] = None  # each rival's own
quantities[r"$\log p(\theta, y)$"] = lambda t, y: log_joint(t, y[:, 0])
counts, scores, band = {}, {}, binom.ppf([0.00025, 0.99975], 1000, 1 / 20)
for name, (drawn, log_q) in rivals.items():
    scores[name] = mean_and_error(-log_q(star, y))
    for of, quantity in quantities.items():
        function = quantity or log_q
        many = function(drawn.reshape(-1, 2), y.repeat(99, 1)).reshape(99, -1)
        rank = (many < function(star, y)).sum(0)  # (n,), 0 to 99
        counts[name, of] = torch.bincount(rank.cpu() // 5, minlength=20)
outside = {key: int(((n < band[0]) | (n > band[1])).sum()) for key, n in counts.items()}

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Eight histograms of ranks, four for the flow above, four for the prior below. All are flat but the last one below, of the log joint density, where nearly all ranks of the prior are high."
fig, axes = plt.subplots(2, 4, figsize=(10, 3.6), sharex=True)
for ax, ((name, of), n) in zip(axes.flat, counts.items(), strict=True):
    _ = ax.bar(5 * torch.arange(20) + 2.5, n, width=5, color=PALETTE["sky"])
    _ = ax.axhspan(*band, color=PALETTE["grey"], alpha=0.4)
    _ = ax.set(ylim=(0, max(100, 1.1 * n.max())))
    _ = ax.set_title(f"{of}: {outside[name, of]} of 20 out", fontsize=10)
for ax, name in zip(axes[:, 0], rivals, strict=True):
    _ = ax.set_ylabel(name)
for ax in axes[1]:
    _ = ax.set_xlabel("rank")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("ranks", "uniform: they see nothing", "Averaged over y, prior and posterior are the same.")
for name, (score, error) in scores.items():
    print(f"{name}: mean of -log q(theta | y) on these pairs {score:.2f} ± {error:.2f} nats")
in_theta = [n for (name, of), n in outside.items() if name == "the prior" and "theta_" in of]
assert max(in_theta) <= 2 and outside["the prior", r"$\log p(\theta, y)$"] > 5
assert sum(n for (name, _), n in outside.items() if name == "the flow") < 12, EXPECTED
assert scores["the flow"][0] < scores["the prior"][0] - 1, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# The grey band holds all twenty bars of a calibrated $q$ in 99 of 100 repetitions. The prior passes
# in $\theta_1$, in $\theta_2$ and in its own log density. Ranks find it only in a quantity that
# knows $y$ (Modrák and others 2023), such as the joint density; the mean score of the pairs finds
# it, too. **Calibrated is not yet informed: report both.**
#
# **Two moons, once more.** A standard test of this field (Greenberg and others 2019; Lueckmann and
# others 2021): $\theta$ is uniform on $[-1, 1]^2$, and $y$ lies on a thin crescent,
# $$y = c(\theta) + r\,(\cos a, \sin a), \quad
# c(\theta) = \tfrac{1}{\sqrt 2}\bigl(-|\theta_1 + \theta_2|,\ \theta_2 - \theta_1\bigr)
# + (\tfrac14, 0),$$
# with $r \sim N(0.1, 0.01^2)$ and $a$ uniform on $(-\frac\pi2, \frac\pi2)$. The bars hide a sign:
# the posterior has two crescents. Its density is exact: polar coordinates cost a factor $1/r$.


# %%
def centre(theta: Tensor) -> Tensor:
    """c(theta): (n, 2) -> (n, 2)."""
    along = -(theta[:, 0] + theta[:, 1]).abs() / 2**0.5
    return torch.stack((along + 0.25, (theta[:, 1] - theta[:, 0]) / 2**0.5), -1)


def draw_crescents(n: int) -> tuple[Tensor, Tensor]:
    theta = 2 * torch.rand(n, 2, device=device) - 1
    r = 0.1 + 0.01 * torch.randn(n, device=device)
    a = math.pi * (torch.rand(n, device=device) - 0.5)
    return theta, centre(theta) + torch.stack((r * a.cos(), r * a.sin()), -1)


def log_joint_crescents(theta: Tensor, y: Tensor) -> Tensor:
    """log p(theta, y): theta (n, 2) -> (n,)."""
    away = y - centre(theta)
    r = away.norm(dim=-1)
    log_p = dist.Normal(0.1, 0.01).log_prob(r) - r.log() - math.log(math.pi) - math.log(4)
    return log_p.masked_fill(away[:, 0] <= 0, -math.inf)


# %%
crescents = learn_posterior(draw_crescents, 2 * CONDITIONAL_STEPS, 256)
square = (-1.0, 1.0, -1.0, 1.0)
kls = torch.tensor(
    [kl_at(crescents, log_joint_crescents, y, square, 400) for y in draw_crescents(20)[1]]
)
print("two crescents: KL {:.2f} ± {:.2f} nats, twenty simulated y".format(*mean_and_error(kls)))
assert kls.mean() < 1.2, EXPECTED

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Left: the exact posterior, two thin crescents that face each other. Right: draws of the flow, on the same two crescents, a little blurred."
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), sharex=True, sharey=True)
y = torch.zeros(1, 2, device=device)
p = exact_posterior(log_joint_crescents, y, square, 400)[1].exp().reshape(400, 400).T.cpu()
_ = left.imshow(p, origin="lower", extent=square)
left.grid(False)
_ = right.plot(*crescents.sample(y, 2000)[:, 0].T.cpu(), ".", ms=2, color=PALETTE["orange"])
for ax, title in ((left, "exact, $y = (0, 0)$"), (right, "2,000 draws of the flow")):
    _ = ax.set(title=title, xlabel=r"$\theta_1$", xlim=(-0.5, 0.5), ylim=(-0.5, 0.5))
    _ = ax.set(xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
_ = left.set_ylabel(r"$\theta_2$")
_ = right.set_aspect("equal")

# %% [markdown]
# Both crescents are found, and a thread between them, as in section 8. They are thin, the training
# was short: that costs tenths of a nat. Libraries make a workflow of this: `sbi` for PyTorch,
# BayesFlow for Keras.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 12 Back to variational Bayes
# With a likelihood at hand, no pairs are needed. We choose $q(\theta)$ (the *guide*, in Pyro's
# words) by the lower bound of the log evidence, the ELBO: minus the free energy of the earlier
# lectures. It asks for what a flow offers: draw $\theta$ from $q$, and know $\log q(\theta)$,
# $$\mathrm{ELBO} = E_q[\log p(\theta, y) - \log q(\theta)]
# = \log p(y) - \mathrm{KL}(q\,\|\,p(\theta \mid y)).$$
#
# The network now runs in the direction of sampling. Call it $g$: $z \to \theta$. With
# $\theta = g(z)$ we have $\log q(\theta) = \log p_z(z) - \log|\det \partial g/\partial z|$. Mind
# the minus. The problem is that of section 11, at $y = 1$.

# %% tags=["nbval-check-output"]
log_evidence = math.log(integrate(log_joint, PLANE, 800))
print(f"log p(y) = {log_evidence:.3f} nats, by quadrature")

# %% [markdown]
# The mean-field Gaussian of the earlier lectures is the simplest flow, $\theta = \mu + \sigma z$.
# One training loop serves both.
#
# **Predict first:** will the Gaussian be as wide as the banana?

# %%
predict("banana", "as wide", "wider, to cover both arms", "narrower")


# %%
class MeanField(nn.Module):
    """g(z) = mean + scale z."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mean, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean + self.log_scale.exp() * z, self.log_scale.sum().expand(len(z))


# %% slideshow={"slide_type": "subslide"}
def draw_q(g: nn.Module, s: int) -> tuple[Tensor, Tensor]:
    """Draws theta (s, 2) from q and log q(theta) (s,)."""
    z = torch.randn(s, 2, device=device)
    theta, log_det = g(z)
    return theta, dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - log_det


def maximise_elbo(g: nn.Module, steps: int, rate: float = 1e-2, s: int = 256) -> nn.Module:
    optimiser = torch.optim.Adam(g.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    for _ in (shown := bar(range(steps), desc="ELBO")):
        theta, log_q = draw_q(g, s)
        loss = (log_q - log_joint(theta)).mean()  # - ELBO
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(g.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        shown.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    return g.requires_grad_(False)


# %%
torch.manual_seed(SEED)
mean_field = maximise_elbo(MeanField(2).to(device), ELBO_STEPS // 2, rate=3e-2)
flow_guide = maximise_elbo(realnvp(2, layers=6).to(device), ELBO_STEPS)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Pyro does the same** from a model and a stack of layers. Its coupling always keeps the first
# half: without `permute` we would pay the price of exercise 5.

# %%
import pyro
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormalizingFlow


def model(y: Tensor) -> None:
    theta = pyro.sample("theta", dist.Normal(torch.zeros(2, device=device), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(theta[..., 1] + theta[..., 0] ** 2, 0.3), obs=y)


def couplings(d: int) -> dist.transforms.ComposeTransformModule:
    parts, swap = [], torch.arange(d).flip(0)
    for _ in range(6):
        parts.append(dist.transforms.affine_coupling(d, hidden_dims=[32, 32]))
        parts.append(dist.transforms.permute(d, swap))
    return dist.transforms.ComposeTransformModule(parts)


# %%
pyro.set_rng_seed(SEED)
pyro.clear_param_store()
y = torch.tensor(1.0, device=device)
pyro_guide = AutoNormalizingFlow(model, couplings)
steps = 5 * ELBO_STEPS // 6
rates = pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.02 ** (1 / steps)})
loss = Trace_ELBO(num_particles=128, vectorize_particles=True, max_plate_nesting=0)
svi = SVI(model, pyro_guide, rates, loss)
for _ in bar(range(steps), desc="SVI"):
    _ = svi.step(y)


# %%
from functools import partial


@torch.no_grad()
def draw_pyro(s: int) -> tuple[Tensor, Tensor]:
    q = pyro_guide.get_posterior()
    theta = q.sample((s,))
    return theta, q.log_prob(theta)


guides = {
    "mean-field Gaussian": partial(draw_q, mean_field),
    "flow by hand": partial(draw_q, flow_guide),
    "flow by Pyro": draw_pyro,
}
elbos = {}
for name, draw in guides.items():
    theta, log_q = draw(20_000)
    elbos[name], error = mean_and_error(log_joint(theta) - log_q)
    print(f"{name}: ELBO {elbos[name]:.3f} ± {error:.3f}, log p(y) {log_evidence:.3f}")

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="Three panels with the exact posterior as a heat map, a bent banana, and draws of the guide in orange. The Gaussian's draws fill only the bend, those of both flows follow both arms."
fig, axes = plt.subplots(1, 3, figsize=(10, 3), sharex=True, sharey=True)
for ax, (name, draw) in zip(axes, guides.items(), strict=True):
    _ = plot_density(lambda t: log_joint(t) - log_evidence, extent=(-3, 3, -5, 3), ax=ax)
    _ = ax.plot(*draw(400)[0].T.cpu(), ".", ms=3, color=PALETTE["orange"], rasterized=True)
    _ = ax.set(xlabel=r"$\theta_1$", ylabel="", title=name, aspect="auto")
    _ = ax.set(xlim=(-3, 3), ylim=(-5, 3))
_ = axes[0].set_ylabel(r"$\theta_2$")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "banana",
    "narrower",
    "It sits in the bend and ignores both arms: draws where the posterior is low cost much.",
)
assert elbos["mean-field Gaussian"] < log_evidence - 0.2, EXPECTED
assert abs(elbos["flow by hand"] - log_evidence) < 0.05, EXPECTED
assert abs(elbos["flow by Pyro"] - log_evidence) < 0.1, EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### The evidence recovered, or not
# The ELBO is a bound. With **importance weights** $w = p(\theta, y) / q(\theta)$ of draws from $q$,
# the mean of $w$ is an *unbiased* estimate of $p(y)$. Two numbers say how good:
#
# - The **effective share** of $S$ draws, $(\sum_i w_i)^2 / (S \sum_i w_i^2)$: 1 if all weights are
#   equal, $1/S$ if one draw carries all.
# - **Pareto-$\hat k$** (Vehtari and others 2024). The excess of the $M = \min(S/5,\ 3\sqrt S)$
#   largest weights over the next one nearly follows a generalised Pareto distribution of shape
#   $k$. From $k = \tfrac12$ on the variance of $w$ is infinite, from 1 on its mean. Up to 0.7
#   such estimates are usually good.
#
# ### Exercise 10: would you report it? (20 minutes)
# From $\log w$ alone: the estimate of $\log p(y)$, the effective share, and $\hat k$. Weights may be
# larger than any number of the computer, or smaller.


# %% tags=["exercise"]
def my_importance(log_w: Tensor) -> tuple[float, float, float]:
    """log w (s,) -> log evidence in nats, effective share, Pareto-k."""
    return ..., ..., ...


checks.check_importance(my_importance)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Which of the three numbers change if all weights are multiplied by one factor, and how? Choose a
# factor that the computer likes. `logsumexp` does that by itself.
# </details>
#
# <details><summary>Hint 2</summary>
#
# `scipy.stats.genpareto.fit(excess, floc=0)` returns shape, location and scale. `torch.sort`, and
# `.numpy()`.
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
from scipy.stats import genpareto


def course_importance(log_w: Tensor) -> tuple[float, float, float]:
    s, log_w = len(log_w), log_w.double().cpu()
    w = (log_w - log_w.max()).exp()
    largest = w.sort().values[-min(s // 5, int(3 * s**0.5)) - 1 :]
    excess = largest[1:] - largest[0]
    k, _, _ = genpareto.fit((excess / excess.mean()).numpy(), floc=0)
    evidence = log_w.logsumexp(0) - math.log(s)
    return evidence.item(), (w.sum() ** 2 / (s * (w**2).sum())).item(), float(k)


assert checks.check_importance(course_importance)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Three guides, and a remedy: let a tenth of the draws come from the prior. Under that mixture no
# weight exceeds ten times the largest likelihood (*defensive* importance sampling, Hesterberg
# 1995).
#
# **Predict first:** we take a thousand draws of the mean-field Gaussian, then a million. What does
# their effective share do?

# %%
predict("share", "it grows", "it settles at a number", "it shrinks towards zero")


# %%
@torch.no_grad()
def defended(q: dist.Distribution, s: int) -> tuple[Tensor, Tensor]:
    """Draws theta (s, 2) of nine tenths q and one tenth prior, and their log density (s,)."""
    prior = dist.Normal(torch.zeros(2, device=device), 1.0).to_event(1)
    theta = torch.cat((q.sample((s - s // 10,)), prior.sample((s // 10,))))
    parts = q.log_prob(theta) + math.log(0.9), prior.log_prob(theta) + math.log(0.1)
    return theta, torch.logaddexp(*parts)


gaussian_guide = dist.Normal(mean_field.mean, mean_field.log_scale.exp()).to_event(1)
guides["mean-field Gaussian, defended"] = partial(defended, gaussian_guide)
guides["flow by Pyro, defended"] = partial(defended, pyro_guide.get_posterior())
importance = my_importance if checks.check_importance(my_importance) else course_importance

# %% jupyter={"source_hidden": true}
found, table = {}, "| guide | draws | error of log p(y) | effective share | Pareto-k |\n"
table += "| --- " * 5 + "|"
torch.manual_seed(SEED)
plan = [("mean-field Gaussian", s) for s in (1_000, 30_000, 1_000_000)]
for name, s in plan + [(name, 30_000) for name in list(guides)[1:]]:
    five = []
    for _ in range(5):
        theta, log_q = guides[name](s)
        five.append([float(each) for each in importance(log_joint(theta) - log_q)])
    log_p, share, k = found[name, s] = torch.tensor(five).T  # (5,) each
    off = log_p - log_evidence
    table += f"\n| {name} | {s:,} | {off.min():+.3f} to {off.max():+.3f} | {share.min():.2%} to "
    table += f"{share.max():.2%} | {k.min():.2f} to {k.max():.2f} |"
display(Markdown(table))
tail = 1 - (2 * mean_field.log_scale[1]).exp().item()
print(f"mean-field Gaussian: k = {tail:.2f} in theory")

# %% tags=["answer", "mistake-F11"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer("share", "it shrinks towards zero", "Sooner or later one draw outweighs all others.")
few, many = (found["mean-field Gaussian", s] for s in (1_000, 1_000_000))
assert tail > 0.5  # infinite variance: the share has the limit 0
assert many[1].median() < few[1].median() / 4 and many[2].median() > 0.7, EXPECTED
for name in list(guides)[1:]:
    off, share, _ = (found[name, 30_000] - torch.tensor([[log_evidence], [0], [0]])).abs()
    assert off.median() < 0.03 and share.median() > 0.05, EXPECTED
    assert off.max() < 0.1 or not name.endswith("defended"), EXPECTED

# %% [markdown] slideshow={"slide_type": "subslide"}
# (Smallest and largest of five repetitions.) Along the arms, $\theta_2 \approx -\theta_1^2$, the
# posterior falls like $e^{-\theta_1^4/2}$, and this Gaussian like $e^{-\theta_1^4/(2\sigma_2^2)}$,
# with $\sigma_2^2 < \tfrac12$. So $\int p^2/q$ is infinite, and far out $k = 1 - \sigma_2^2$. The
# share that a thousand draws print estimates nothing: its limit is zero. And $\log \hat p(y)$ is
# mostly too low. The mean of $w$ is unbiased, its logarithm is not (Jensen), and the rare draws
# that would lift it have not come. **Do not report it.**
#
# The flows come within about a hundredth of a nat. Yet nothing bounds their weights, either: in
# some runs $\hat k$ exceeds 0.7, or one draw far out outweighs the rest. Defended, the variance is
# finite whatever $q$ is, and the evidence is recovered. ($\hat k$ may alarm there, too: it does not
# know of the bound.)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Two directions of one divergence
# Sections 4 to 11 minimised $\mathrm{KL}(p\,\|\,q)$: maximum likelihood. The ELBO minimises
# $\mathrm{KL}(q\,\|\,p)$. The difference shows when $q$ is too simple: one parameter with prior
# $N(0, 1)$, a measurement $\theta^2 = 1.5 \pm 0.4$, and so two modes. Fit one Gaussian both ways.
#
# **Predict first:** where will the two Gaussians sit?

# %%
predict(
    "two_modes",
    "both between the modes",
    "maximum likelihood on one mode, the ELBO's between them",
    "the ELBO's on one mode, maximum likelihood between them",
)

# %%
theta = torch.linspace(-4, 4, 2001)
step = theta[1] - theta[0]
log_post = dist.Normal(0.0, 1.0).log_prob(theta) + dist.Normal(theta**2, 0.4).log_prob(
    1.5 + 0 * theta
)
log_post = log_post - torch.log(log_post.exp().sum() * step)  # normalised on the grid
post = log_post.exp()
mean = (post * theta).sum() * step
by_likelihood = dist.Normal(mean, ((post * (theta - mean) ** 2).sum() * step).sqrt())  # KL(p || q)

# %%
parameters = torch.tensor([1.0, 0.0], requires_grad=True)  # mean, log scale
optimiser = torch.optim.Adam([parameters], 0.05)
for _ in range(400):
    by_elbo = dist.Normal(parameters[0], parameters[1].exp())
    log_q = by_elbo.log_prob(theta)
    loss = (log_q.exp() * (log_q - log_post)).sum() * step  # KL(q || p)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"} alt="A posterior with two modes. One Gaussian sits on the right mode and is narrow; the other lies between the modes and is wide."
fig, ax = plt.subplots(figsize=(7, 3))
_ = ax.fill_between(theta, post, color=PALETTE["sky"], alpha=0.6, label="posterior")
curves = {"KL(q ‖ p), the ELBO": (by_elbo, "orange")}
curves["KL(p ‖ q), maximum likelihood"] = (by_likelihood, "green")
for name, (q, colour) in curves.items():
    _ = ax.plot(theta, q.log_prob(theta).exp().detach(), color=PALETTE[colour], label=name)
_ = ax.set(xlabel=r"$\theta$", ylabel="density", ylim=(0, None))
_ = ax.legend(fontsize=10)

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "two_modes",
    "the ELBO's on one mode, maximum likelihood between them",
    "One is called *mode-seeking*, the other *mass-covering*.",
)
assert abs(by_likelihood.mean) < 0.01 and by_likelihood.stddev > 1
assert by_elbo.mean > 0.9 and by_elbo.stddev < 0.4
assert abs(loss.item() - math.log(2)) < 0.1

# %% [markdown]
# The ELBO finds one mode and is blind to the other; the price is $\log 2$ nats, and no weight warns
# where $q$ never draws. Maximum likelihood covers both, and puts most of its mass where there is
# none. A flow trained by the ELBO can miss modes, too; several starts and a mixture base help.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 13 VAE, flow, and when to use which
#
# | | variational autoencoder | normalizing flow |
# | --- | --- | --- |
# | latent $z$ | as small as you like | exactly as large as $x$ |
# | map | any decoder, plus noise | a bijection with a cheap determinant |
# | $\log p(x)$ | a lower bound (ELBO) | exact |
# | inference of $z$ | approximate, $q_\phi(z \mid x)$ | exact, $z = f(x)$ |
# | training | noisy gradients of a bound | maximum likelihood |
# | sampling | one pass of the decoder | one pass (coupling), $d$ passes (MAF) |
# | cost of a step | two networks, any width | every layer as wide as $x$, many layers |
# | data on a thin surface | natural | awkward: density must fill the space |
# | typical use | compression, representation, images | densities, posteriors, simulators |
#
# They also combine: a flow as the VAE's posterior or prior. A rule of thumb. To *evaluate* a
# density, take a flow, and a mixture of Gaussians beside it. For a *summary* in few numbers, a VAE.
# For the posterior of a model that you can write down, begin with MCMC; take a flow as guide where
# MCMC is too slow. For a simulator, or for many posteriors of one kind, a conditional flow.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 14 What you saw
# - The log-determinant is the change of area. An integral, a round trip and autograd find in
#   seconds what is wrong with it.
# - At equal layers, steps, batch and base the kinds of flows are close in the plane: gaps of one or
#   two hundredths of a nat, where a Gaussian misses more than one and a half nats.
# - The filament is the price of bounded steepness, not of bijections. A base in pieces removes it.
# - In the plane a plain mixture of Gaussians is as good and faster. In eight dimensions the flow
#   won.
# - Trained on simulated pairs, one flow gave the posterior at any $y$. Ranks test calibration;
#   scores on pairs test information. Use both.
# - In variational Bayes a flow closed a gap that the ELBO alone does not reveal. The weights of the
#   mean-field Gaussian have infinite variance; bounded weights gave the evidence.
#
# **In practice.** Standardise, and add the Jacobian when you report. Begin with a library's spline
# flow, one-cycle learning rate, clipped gradients, early stopping. Report test NLL in nats with a
# standard error, never a training loss. Check the integral in low dimension. And do not use the
# likelihood of a flow to detect outliers without a test: in many dimensions it misleads (Nalisnick
# and others 2019).

# %% [markdown]
# **Further reading.**
#
# | | |
# | --- | --- |
# | the review to read first | Papamakarios and others 2021, [arXiv:1912.02762](https://arxiv.org/abs/1912.02762) |
# | coupling layers: NICE | Dinh, Krueger, Bengio 2015, [arXiv:1410.8516](https://arxiv.org/abs/1410.8516) |
# | RealNVP | Dinh, Sohl-Dickstein, Bengio 2017, [arXiv:1605.08803](https://arxiv.org/abs/1605.08803) |
# | masked autoregressive flow | Papamakarios, Pavlakou, Murray 2017, [arXiv:1705.07057](https://arxiv.org/abs/1705.07057) |
# | inverse autoregressive flow | Kingma and others 2016, [arXiv:1606.04934](https://arxiv.org/abs/1606.04934) |
# | neural spline flows | Durkan and others 2019, [arXiv:1906.04032](https://arxiv.org/abs/1906.04032) |
# | steepness and pieces | Cornish and others 2020, [arXiv:1909.13833](https://arxiv.org/abs/1909.13833) |
# | a mixture as base | Izmailov and others 2020, [arXiv:1912.13025](https://arxiv.org/abs/1912.13025) |
# | mixtures by EM | Dempster, Laird, Rubin 1977, J. R. Stat. Soc. B 39, 1–38 |
# | flows and outliers | Nalisnick and others 2019, [arXiv:1810.09136](https://arxiv.org/abs/1810.09136) |
# | classifier two-sample tests | Lopez-Paz, Oquab 2017, [arXiv:1610.06545](https://arxiv.org/abs/1610.06545) |
# | entropy from samples | Kozachenko, Leonenko 1987, Probl. Inf. Transm. 23, 95–101 |
# | inference by simulation: a review | Cranmer, Brehmer, Louppe 2020, [arXiv:1911.01429](https://arxiv.org/abs/1911.01429) |
# | automatic posterior transformation; two moons | Greenberg, Nonnenmacher, Macke 2019, [arXiv:1905.07488](https://arxiv.org/abs/1905.07488) |
# | the benchmark | Lueckmann and others 2021, [arXiv:2101.04653](https://arxiv.org/abs/2101.04653) |
# | ranks | Talts and others 2018, [arXiv:1804.06788](https://arxiv.org/abs/1804.06788); Modrák and others 2023, [arXiv:2211.02383](https://arxiv.org/abs/2211.02383) |
# | libraries | [sbi](https://sbi.readthedocs.io), [BayesFlow](https://bayesflow.org), [zuko](https://zuko.readthedocs.io) |
# | flows in variational inference | Rezende, Mohamed 2015, [arXiv:1505.05770](https://arxiv.org/abs/1505.05770) |
# | defensive importance sampling | Hesterberg 1995, Technometrics 37, 185–194 |
# | Pareto-$\hat k$ | Vehtari and others 2024, [arXiv:1507.02646](https://arxiv.org/abs/1507.02646); Yao and others 2018, [arXiv:1802.02538](https://arxiv.org/abs/1802.02538) |

# %% tags=["progress"]
progress.show("flows")
