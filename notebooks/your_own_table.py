# %% [markdown] slideshow={"slide_type": "slide"}
# # {{title}}
# *Bayesian Statistical Learning, Lecture 4: Deep learning architectures*
#
# {{picture}}
#
# **Is a Bayesian network worth it on *your* table, and would you notice if it were not?** The
# picture is the answer for one table: on the left what the network says of rows that it has not
# seen, on the right how much it gains over simpler models. At the end you have it for yours.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **What you will do.** Take a CSV file from its twins to a comparison that you can publish: a
# constant, a line, a forest and a Bayesian network on the same rows. Then compare a flow with
# Gaussians, for the inputs. You type the model, the test of its intervals, the paired difference
# and the training of the flow.
#
# **What you will learn.** Which rows belong together; what to beat; how to say by how much, and
# how surely; what to do when the network loses, or the flow. On many tables they do.
#
# **What you need.** The first notebook, on Bayesian networks; for section 6 that on flows.
#
# {{timetable}}
#
# {{ways}}; each says how long.

# %% [markdown] slideshow={"slide_type": "subslide"}
# **A table of your own.** Save it as a CSV file beside this notebook. In the cell of parameters
# below write its name into `TABLE`, and run all cells again.
# - Row 1 holds the names of the columns, each other row one case. Every entry is a number. Commas,
#   semicolons or tabs part the columns.
# - `TARGET` names the column to predict: a measured number, not yes or no. Empty means the last.
# - `GROUP`: do rows belong together, such as the visits of one patient or the samples of one
#   batch? Name the column that says so. It may hold text, and is no input.
# - `DROP`: columns to leave out, such as row numbers, and all that is known only *after* the
#   target.
#
# At least 40 rows are needed; of more than `ROWS` a part is taken. What cannot work is refused,
# with column, row and remedy. Nothing is sent anywhere. But on Binder or a hub the file lies on
# somebody else's computer: no patients' data there.
#
# **Three tables are at hand.** `"red wine"` (1,599 rows) and `"white wine"` (400 of 4,898), both
# Cortez et al. 2009, UCI, [doi:10.24432/C56S3T](https://doi.org/10.24432/C56S3T), CC BY 4.0.
# `"diabetes"` (442 patients; Efron et al. 2004) comes with scikit-learn. Try all three: they end
# differently. It takes no GPU, and no network.

# %%
import course_utils  # noqa: F401 - before torch: it decides how threads wait

# %% slideshow={"slide_type": "subslide"}
import time

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import zuko
from IPython.display import Markdown, display
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal
from sklearn.ensemble import RandomForestRegressor
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GroupKFold, cross_val_predict
from threadpoolctl import threadpool_limits

from course_utils import progress
from course_utils.checks import table as checks
from course_utils.data import duplicate_groups
from course_utils.data.table import load_table
from course_utils.metrics import mixture_log_density, rmse
from course_utils.plotting import PALETTE, plot_loss, use_course_style
from course_utils.predictions import answer, predict
from course_utils.runtime import bar, get_device, seed_everything, set_threads
from course_utils.validation import is_whole, require

# %% tags=["parameters"]
TABLE = "red wine"  # or "white wine", "diabetes", or a file such as "mine.csv"
TARGET = ""  # name of the column to predict; empty: the last one
GROUP = ""  # name of a column that says which rows belong together; empty: none
DROP = ()  # names of columns to leave out, such as ("id", "date")
ROWS = 2000  # of a longer table so many are used, in whole groups
SEED = 0  # of everything that is random
DEVICE = "auto"  # "cpu", "cuda", "mps"
THREADS = 1  # these models are small: a second thread costs more than it brings
HIDDEN = 10  # hidden units of the network
STEPS = 400  # of Adam, for the network in each fold
DRAWS = 200  # of the weights, when the posterior is averaged
TREES = 100  # in the forest
FLOW_STEPS = 250  # of Adam, for each flow, at most

# %%
sizes = {"HIDDEN": HIDDEN, "STEPS": STEPS, "TREES": TREES, "FLOW_STEPS": FLOW_STEPS}
for name, value in sizes.items():
    require(is_whole(value, 1), name, "a whole number, 1 or more", value)
require(is_whole(ROWS, 40), "ROWS", "a whole number, 40 or more", ROWS)
require(is_whole(DRAWS, 2), "DRAWS", "a whole number, 2 or more", DRAWS)
seed_everything(SEED)
device = get_device(DEVICE)
_ = set_threads(THREADS), threadpool_limits(THREADS)  # PyTorch's, and scikit-learn's
use_course_style()

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 1 Your table, and its twins
# Look before you model. The reader of the course is strict: a missing value, a date or a constant
# column stops it here, with a remedy, and not as a strange result an hour later.


# %%
def draw_rows(groups, most, seed):
    """Whole groups in random order while there is room: their rows, in the order of the table."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randperm(int(groups.max()) + 1, generator=generator)[groups]  # (n,)
    return (place < place.sort().values[most]).nonzero()[:, 0]


table = load_table(TABLE, target=TARGET, group=GROUP, drop=DROP)
x, y, groups = table.x, table.y, table.groups  # (n, d), (n,), (n,)
if len(y) > ROWS:
    print(f"{len(y)} rows: about {ROWS} of them are used, drawn at random in whole groups")
    kept = draw_rows(groups, ROWS, SEED)
    x, y, groups = x[kept], y[kept], groups[kept].unique(return_inverse=True)[1]
n, d = x.shape

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
lines = ["| column | mean | standard deviation | different values |", "| --- " * 4 + "|"]
for name, column in zip([*table.columns, table.target], [*x.T, y], strict=True):
    facts = f"{column.mean():.4g} | {column.std():.3g} | {len(column.unique())}"
    lines.append(f"| {name} | {facts} |")
display(Markdown(f"{n} rows. The last line is the target.\n\n" + "\n".join(lines)))

# %% alt="A histogram of the target: how many rows have which value." jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(7, 2.8))
values = y.unique()
if len(values) > 30:
    _ = ax.hist(y, bins=30)
else:
    _ = ax.bar(values, (y[:, None] == values).sum(0), 0.8 * values.diff().min())
_ = ax.set(xlabel=table.target, ylabel="rows")

# %% [markdown]
# Three questions for this table, before any model. Is each column something that you will know
# *when you predict*? Has a column a long tail? Then its logarithm is often the better input. And
# is the target rounded?

# %% jupyter={"source_hidden": true}
gap = y.unique().diff().min() / y.std()  # the smallest step, in standard deviations
kind = "whole numbers" if torch.equal(y, y.round()) else "measured numbers"
told = (
    f"**The target holds {kind}**, {len(y.unique())} different ones; the smallest step is "
    f"{gap:.2g} standard deviations."
)
if kind == "whole numbers":
    told += (
        " Then log densities can be cheated: a model that puts ever narrower spikes on the whole "
        "numbers gains nats without end and predicts nothing better. The models here cannot: "
        "each has one broad bell, or an average of broad bells. If you add a model that could, "
        "compare probabilities of the numbers instead."
    )
display(Markdown(told))

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Rows that belong together
# Some rows are no new evidence. *Twins* agree in every input: the same bottle twice, a copy, a
# second line for one patient. If one of them trains the model and the other tests it, the test
# asks for what was learned by heart. Rows with one entry in `GROUP` are as close as twins: a model
# may recognise the patient. The reader gives all of these one label, and we deal *labels* into
# five folds, not rows.

# %%
FOLDS = 5


def deal_folds(groups, *, folds, seed):
    """Fold 0 … folds - 1 of every row (n,); rows of one group share it."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(int(groups.max()) + 1, generator=generator)
    return order[groups] % folds


fold = deal_folds(groups, folds=FOLDS, seed=SEED)

# %%
copies = n - len(duplicate_groups(x).unique())
company = (groups.bincount()[groups] > 1).sum()
print(f"{n} rows in {groups.max() + 1} groups; {company} rows share theirs with others")
print(f"{copies} rows repeat all inputs of another row")
for k in range(FOLDS):
    assert not torch.isin(groups[fold == k], groups[fold != k]).any()  # no twin across a split

# %% [markdown] slideshow={"slide_type": "subslide"}
# Every row will be held out once. What a model needs to know, also mean and scale of a column, it
# gets from the training rows alone. So no training set may be without rows that differ: the
# smallest ones, three folds in section 6, are tested here.


# %%
def split(k):
    """Rows for training, and rows of fold k, which are held out."""
    return (fold != k).nonzero()[:, 0], (fold == k).nonzero()[:, 0]


def standardise(values, reference):
    """In standard deviations of the reference rows, from their mean; 32 bits."""
    return ((values - reference.mean(0)) / reference.std(0)).float()


for k in range(FOLDS):
    rows = (fold != k) & (fold != (k + 1) % FOLDS)
    assert rows.sum() > d, f"{rows.sum()} training rows for {d} columns: name some in DROP"
    columns = zip([*table.columns, table.target], [*x[rows].T, y[rows]], strict=True)
    flat = [name for name, column in columns if column.std() == 0]
    assert not flat, f"constant in a training set: {flat}. Name it in DROP"

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 2 What must be beaten
# Each model is a function `fit(x, y, groups, seed)` that returns a prediction; each prediction is
# a mean and a noise scale per draw and row, $(s, n)$. So one function can judge them all.
#
# **The constant** knows only the targets. **The line** is Bayesian linear regression with unknown
# noise, as in the first notebook: exact, and drawn from. Whatever is not better than these two has
# learned nothing, or only a line.


# %%
def fit_constant(x, y, groups, seed):
    """One Gaussian for all rows."""

    def predict(x_new):
        return y.mean().expand(1, len(x_new)), y.std().expand(1, len(x_new))

    return predict


def fit_line(x, y, groups, seed):
    """Bayesian linear regression with unknown noise: draws from the exact posterior."""
    pyro.set_rng_seed(seed)
    features = torch.cat([x, torch.ones_like(x[:, :1])], 1)  # (n, d + 1)
    root = torch.linalg.cholesky(features.T @ features + torch.eye(x.shape[1] + 1).to(x))
    m = torch.cholesky_solve((features.T @ y)[:, None], root)[:, 0]  # (d + 1,)
    rate = (1 + y.square().sum() - (root.T @ m).square().sum()) / 2
    sigma = dist.Gamma((1 + x.new_tensor(len(y))) / 2, rate).sample((DRAWS, 1)).rsqrt()  # (s, 1)
    noise = torch.randn(len(m), DRAWS).to(x)
    w = m + sigma * torch.linalg.solve_triangular(root.T, noise, upper=True).T  # (s, d + 1)

    def predict(x_new):
        mean = w[:, :-1] @ x_new.T + w[:, -1:]  # (s, n)
        return mean, sigma.expand_as(mean)

    return predict


# %% [markdown] slideshow={"slide_type": "subslide"}
# **The forest** is what many would take for a table. Each of its trees splits the rows until
# hardly any are left together (each split looks at a third of the columns); the prediction is their
# average. It is a number without a noise scale. To make it a distribution we need one: the usual
# error. Of which rows?
#
# **Predict first:** we take the error on the rows that the forest was trained with. Of ten
# held-out rows, how many does its 90 % interval then hold?

# %%
predict("own rows", "more than nine", "about nine", "seven or fewer")


# %%
def new_forest(seed):
    return RandomForestRegressor(TREES, max_features=1 / 3, random_state=seed)


used, held = split(0)
x_used, x_held = (standardise(x[rows], x[used]) for rows in (used, held))
y_used, y_held = (standardise(y[rows], y[used]) for rows in (used, held))
forest = new_forest(SEED).fit(x_used.numpy(), y_used.numpy())
own, new = (torch.tensor(forest.predict(part.numpy())) for part in (x_used, x_held))
own_error, new_error = (y_used - own).square().mean().sqrt(), (y_held - new).square().mean().sqrt()
inside = ((y_held - new).abs() < 1.645 * own_error).double().mean()
print(
    f"usual error: own rows {own_error:.2f}, held-out rows {new_error:.2f} (scales of the target)"
)
print(f"the 90 % interval with the error of its own rows holds {inside:.0%} of the held-out rows")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "own rows",
    "seven or fewer",
    "Each tree has most rows by heart, so the error on them says how well it remembers. "
    "It says nothing of new rows.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# So the noise must come from rows that the forest has not seen: we split the training rows once
# more, groups together, and predict each third from the other two. (The forest's own "out-of-bag"
# error is no cure where there are twins: one may be in the bag, the other out of it.)


# %%
def fit_forest(x, y, groups, seed):
    """Random forest; one noise scale, from training rows that were set aside in turn."""
    forest = new_forest(seed)
    inputs, targets = x.cpu().numpy(), y.cpu().numpy()
    options = {"groups": groups.numpy(), "cv": GroupKFold(3)}
    unseen = torch.tensor(cross_val_predict(forest, inputs, targets, **options))
    noise = (y.cpu() - unseen).square().mean().sqrt()
    forest.fit(inputs, targets)

    def predict(x_new):
        mean = torch.tensor(forest.predict(x_new.cpu().numpy()))[None]  # (1, n)
        return mean, noise.expand_as(mean)

    return predict


# %% [markdown] slideshow={"slide_type": "slide"}
# ## 3 The Bayesian network
# The network of the first notebook was fitted to wine, and its prior to standardised wine. Yours
# must serve a table that nobody has seen. All it may count on: inputs and target have mean 0 and
# standard deviation 1.
#
# ### Exercise 1: your model (12 minutes)
# Write a Bayesian network in Pyro: one hidden layer of `hidden` units and one output. The targets
# scatter around the output with one unknown noise scale. Later cells count on this:
# - `x` has shape $(n, d)$, `y` $(n,)$. Without `y` the model draws targets.
# - The noise scale is called `"sigma"`, the targets `"y"`. Put the output $(n,)$ on record: where
#   `pyro.sample` draws, `pyro.deterministic("mean", value)` only gives `value` a name.
#
# The priors are your decision. But **before any data** the output should have a spread of about
# one, as the target has, whatever the numbers of columns and hidden units. The check draws from
# your prior, looks at every site, and trains your model on a parabola.


# %% tags=["exercise"]
def my_model(x, y=None, hidden=10):
    """p(weights, sigma, y | x) for one hidden layer; x (n, d), y (n,) or None."""
    return ...


checks.check_table_model(my_model)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1: what is unknown?</summary>
#
# Five things: weights into the hidden layer, one intercept for each hidden unit, weights out of
# it, one intercept of the output, and the noise scale.
#
# </details>
# <details><summary>Hint 2: how wide are the priors?</summary>
#
# A sum of $m$ independent terms of variance $v$ has variance $mv$. How many terms has the sum
# that goes into a hidden unit? And the one that makes the output?
#
# </details>
# <details><summary>Hint 3: shapes and the plate</summary>
#
# A matrix of weights is one event with two axes: `.to_event(2)`. Only what is drawn anew for each
# row stands in the plate, and weights are not.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_model(x, y=None, hidden=10):
    n, d = x.shape
    w1 = pyro.sample("w1", dist.Normal(x.new_zeros(d, hidden), d**-0.5).to_event(2))  # (d, h)
    b1 = pyro.sample("b1", dist.Normal(x.new_zeros(hidden), 1.0).to_event(1))  # (h,)
    w2 = pyro.sample("w2", dist.Normal(x.new_zeros(hidden), hidden**-0.5).to_event(1))  # (h,)
    b2 = pyro.sample("b2", dist.Normal(x.new_tensor(0.0), 1.0))  # ()
    sigma = pyro.sample("sigma", dist.LogNormal(x.new_tensor(0.0), 1.0))  # ()
    mean = pyro.deterministic("mean", torch.tanh(x @ w1 + b1) @ w2 + b2)  # (n,)
    with pyro.plate("rows", n):
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


assert checks.check_table_model(course_model)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **The guide** is one line: `AutoDiagonalNormal` gives every unknown a Gaussian of its own, mean
# field. (It knows that `"sigma"` is positive, and works with its logarithm.) **Inference** is
# `SVI`, and **prediction** is `Predictive`: it draws weights from the guide and runs the model
# with them.

# %%
model = my_model if checks.check_table_model(my_model) else course_model


def train_network(model, x, y, seed):
    """Fit the guide by stochastic variational inference; losses in nats per row."""
    pyro.set_rng_seed(seed)
    pyro.clear_param_store()
    guide, losses = AutoDiagonalNormal(model, init_scale=0.05), []
    optimiser = pyro.optim.ClippedAdam({"lr": 0.03, "lrd": 0.1 ** (1 / STEPS)})  # lr falls to 0.003
    svi = SVI(model, guide, optimiser, Trace_ELBO())
    with pyro.validation_enabled(False):  # the check has seen every site: saves a third of the time
        for step in (shown := bar(range(STEPS), desc="network")):
            losses.append(svi.step(x, y, HIDDEN) / len(y))
            if step % 20 == 0:
                shown.set_postfix(loss=f"{losses[-1]:.2f}", refresh=False)
    return guide, losses


# %% slideshow={"slide_type": "subslide"}
def fit_network(x, y, groups, seed):
    """Bayesian network; all training rows train it, and none is needed to stop it."""
    with x.device:  # what the model makes is made where x is
        guide, _ = train_network(model, x, y, seed)

    def predict(x_new):
        sites = ("mean", "sigma")
        predictive = Predictive(model, guide=guide, num_samples=DRAWS, return_sites=sites)
        with torch.no_grad(), x_new.device:
            draws = predictive(x_new, None, HIDDEN)
        mean = draws["mean"].reshape(DRAWS, -1)  # (s, n)
        return mean, draws["sigma"].reshape(DRAWS, 1).expand_as(mean)

    return predict


# %% alt="The loss falls steeply at first, then it creeps and jitters." slideshow={"slide_type": "subslide"}
with device:
    _, losses = train_network(model, x_used.to(device), y_used.to(device), SEED)
fig, ax = plt.subplots(figsize=(7, 2.8))
_ = plot_loss({"network": losses}, xlabel="step", ylabel="−ELBO (nats per row)", ax=ax)
_ = ax.set_ylim(min(losses) - 0.1, losses[0])

# %% [markdown]
# Does the curve still fall at its end? Then the network is not trained, whatever the scores below
# say: raise `STEPS`. The jitter comes from the one draw of weights in each step.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 4 Coverage and width
# Now each fold takes its turn as the held-out one. All four models see the same training rows and
# are judged on the same held-out ones. Nothing is chosen from here on.


# %%
def test_once(fit, k):
    """Train without fold k, predict it: means and scales (s, n of the fold), unit of the target."""
    used, held = split(k)
    x_used, x_held = (standardise(x[rows], x[used]).to(device) for rows in (used, held))
    y_used = standardise(y[used], y[used]).to(device)
    mean, scale = fit(x_used, y_used, groups[used], SEED + k)(x_held)
    centre, unit = y[used].mean(), y[used].std()
    return mean.cpu().double() * unit + centre, scale.cpu().double() * unit


def test_all(fit):
    """Means and scales (s, n) of all rows, each predicted when it was held out."""
    parts = [test_once(fit, k) for k in bar(range(FOLDS), desc=fit.__name__)]
    order = torch.cat([split(k)[1] for k in range(FOLDS)]).argsort()
    return [torch.cat(part, 1)[:, order] for part in zip(*parts, strict=True)]


# %%
fits = {"constant": fit_constant, "line": fit_line, "forest": fit_forest, "network": fit_network}
held_out, seconds = {}, {}
for name, fit in fits.items():
    start = time.perf_counter()
    held_out[name] = test_all(fit)  # two of (s, n)
    seconds[name] = time.perf_counter() - start
    assert all(part.shape[1] == n and part.isfinite().all() for part in held_out[name])

# %% [markdown] slideshow={"slide_type": "subslide"}
# An interval that should hold 90 % cuts off 5 % below and 5 % above. Quantiles of some hundred
# draws are too narrow, and no draws are needed. The predictive distribution of a row is an average
# of Gaussians, one for each draw of the weights. So its distribution function
# $F(y) = P(Y \le y)$ is known exactly. To find an end, `invert` halves an interval until $F$ has
# the wanted level there, for all rows at once.


# %%
def invert(F, level, start):
    """Where F, increasing from (n,) to (n,), reaches the level; start (n,) may lie anywhere."""
    low, high, reach = start, start, 1.0
    for _ in range(200):  # reach further until the answer lies between
        if (F(low) <= level).all() and (F(high) >= level).all():
            break
        low, high, reach = start - reach, start + reach, 2 * reach
    for _ in range(50):
        middle = (low + high) / 2
        below = F(middle) < level
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return middle


logistic = invert(torch.sigmoid, 0.9, torch.tensor([-5.0, 300.0]))  # its quantile is log 9
assert torch.allclose(logistic, torch.tensor(9.0).log(), atol=1e-4)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 2: coverage and width (8 minutes)
# Targets `observed` $(n,)$ were predicted with `mean` and `scale` $(s, n)$: for each row an equal
# mixture of $s$ Gaussians. Return two numbers: the **share of the targets** in the central
# intervals that hold `mass`, and the **mean width** of these intervals. Use `invert`.


# %% tags=["exercise"]
def my_intervals(observed, mean, scale, mass):
    """Targets (n,), means and scales (s, n), mass -> share inside, mean width."""
    return ...


checks.check_table_intervals(my_intervals)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# `dist.Normal(mean, scale).cdf(y)` takes $y$ of shape $(n,)$ and gives $(s, n)$. Which axis is
# averaged?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Define $F$ as a function inside your function. The two levels add up to one. A good `start` is
# `observed`, or any tensor $(n,)$.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_intervals(observed, mean, scale, mass):
    def F(y):
        return dist.Normal(mean, scale).cdf(y).mean(0)  # (n,)

    low, high = (invert(F, (1 + side * mass) / 2, observed) for side in (-1, 1))
    inside = (low <= observed) & (observed <= high)
    return inside.double().mean(), (high - low).mean()


assert checks.check_table_intervals(course_intervals)

# %%
intervals = my_intervals if checks.check_table_intervals(my_intervals) else course_intervals
coverage, width = {}, {}
for name, (mean, scale) in held_out.items():
    coverage[name], width[name] = map(float, intervals(y, mean, scale, 0.9))
    print(f"{name:9s} holds {coverage[name]:.1%}, mean width {width[name]:.3g} ({table.target})")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Read the two numbers together. Coverage alone proves nothing: the constant may have it, too, and
# it knows nothing of a row. **At equal coverage the narrower intervals are the better ones.** With
# rounded targets coverage jumps: an end that crosses a whole number takes many rows along.
#
# How far from 90 % may chance lead? If groups were independent, about 95 % of such tables would lie
# within two binomial standard errors. The assertion is much wider. If it fails, the doubt of the
# network is wrong for this table: far below 90 % it is too sure of itself, at 100 % too modest.

# %%
independent = int(groups.max()) + 1
error = (0.9 * 0.1 / independent) ** 0.5
print(f"chance alone: 90 % ± {2 * error:.1%}, for {independent} groups")
assert abs(coverage["network"] - 0.9) < 4 * error + 0.06, (
    f"its 90 % intervals hold {coverage['network']:.0%} of the held-out rows: do not trust them. "
    "See 'When the network loses' in section 5"
)

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 5 Who wins, and by how much?
# Coverage and width are two numbers. The log density of the held-out targets is one, and a proper
# score: on average nobody beats the truth. We compare *row by row*. Some rows are hard for every
# model; in the difference of two models on the same row that cancels.

# %%
density = {name: mixture_log_density(y, *parts) for name, parts in held_out.items()}  # (n,) each
gain = density["network"] - density["line"]  # (n,), nats
print(f"network − line: {gain.mean():+.3f} nats per row, usual error {gain.std() / n**0.5:.3f}")

# %% [markdown] slideshow={"slide_type": "subslide"}
# The usual standard error of a mean is the standard deviation of the rows, divided by $\sqrt n$.
#
# **Predict first:** by a slip every row of your table was saved twice, and nobody noticed. What
# happens to this standard error?

# %%
predict("copies", "it stays as it was", "it shrinks to 71 %", "it shrinks to half")

# %%
doubled = gain.repeat(2)
usual, after = gain.std() / len(gain) ** 0.5, doubled.std() / len(doubled) ** 0.5
print(f"the error of the doubled table is {after / usual:.0%} of that of the table")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "copies",
    "it shrinks to 71 %",
    r"Twice the rows, so $1/\sqrt 2$, though nothing new was learned. "
    "Twins and visits of one patient do the same to a smaller degree.",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 3: the paired difference (10 minutes)
# Two models gave scores `first` and `second` $(n,)$ to the same rows; `groups` $(n,)$ holds the
# labels $0, 1, \dots, G - 1$. Return the mean of *first minus second* over the rows, and its
# standard error when **groups**, not rows, are the independent draws. It must pass two tests:
# - where every row is a group of its own, it is the usual error;
# - where every row is saved twice, and twins share a group, it is what it was before.
#
# In the mean each row counts once. So a large group weighs more than a small one, in the error,
# too.


# %% tags=["exercise"]
def my_paired(first, second, groups):
    """Scores (n,) twice, labels (n,) -> mean difference and its standard error."""
    return ...


checks.check_paired_difference(my_paired)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# Write the mean as a sum over groups: what does one group contribute to (mean − its expectation)?
# Independent contributions have variances that add up.
#
# </details>
# <details><summary>Hint 2</summary>
#
# First the deviations of the differences from their mean. Then their sum within each group:
# `torch.zeros(count).double().index_add(0, groups, deviations)`. Only then squares.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_paired(first, second, groups):
    difference = first - second  # (n,)
    sums = difference.new_zeros(int(groups.max()) + 1)  # (G,)
    sums = sums.index_add(0, groups, difference - difference.mean())
    variance = len(sums) / (len(sums) - 1) * sums.square().sum() / len(difference) ** 2
    return difference.mean(), variance.sqrt()


assert checks.check_paired_difference(course_paired)

# %%
paired = my_paired if checks.check_paired_difference(my_paired) else course_paired


def verdict(first, second, scores):
    """Mean gain, its standard error, and what two standard errors allow to say."""
    mean, error = map(float, paired(scores[first], scores[second], groups))
    clear = abs(mean) > 2 * error
    return mean, error, ("better" if mean > 0 else "worse") if clear else "no clear difference"


# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
head = f"model | RMSE ({table.target}) | gain over the line (nats per row) | 90 % coverage"
lines = [f"| {head} | width | seconds |", "| --- " * 6 + "|"]
for name, (mean, _) in held_out.items():
    centre, error, _ = verdict(name, "line", density)
    gained = "" if name == "line" else f"{centre:+.3f} ± {error:.3f}".replace("-", "−")
    facts = f"{rmse(y, mean.mean(0)):#.3g} | {gained} | {coverage[name]:.1%} | {width[name]:#.3g}"
    lines.append(f"| {name} | {facts} | {seconds[name]:.1f} |")
display(Markdown("\n".join(lines)))


# %% jupyter={"source_hidden": true}
def draw_intervals(ax, mean, scale):
    """Band of 90 %, mean and observed targets of all rows, sorted by the mean."""
    low, high = (
        invert(lambda v: dist.Normal(mean, scale).cdf(v).mean(0), level, y)
        for level in (0.05, 0.95)
    )
    order, rank = mean.mean(0).argsort(), torch.arange(1, n + 1)
    missed = ((y < low) | (y > high))[order]
    apart = y.unique().diff().min() if len(y.unique()) < 30 else 0.0  # few values: spread them
    generator = torch.Generator().manual_seed(SEED)
    shown = (y + 0.25 * apart * (torch.rand(n, generator=generator) - 0.5))[order]
    ax.fill_between(rank, low[order], high[order], color=PALETTE["sky"], alpha=0.35, lw=0)
    ax.plot(rank, mean.mean(0)[order], color=PALETTE["blue"])
    for rows, colour, label in ((~missed, "black", "inside"), (missed, "orange", "outside")):
        share = f"{label} ({rows.double().mean():.0%})"
        ax.scatter(rank[rows], shown[rows], 7, PALETTE[colour], alpha=0.6, label=share, lw=0)
    ax.set(xlabel="held-out row, by prediction", ylabel=table.target)
    ax.set_title("what the network says: mean and 90 % interval", fontsize="medium")
    ax.legend(loc="upper left", markerscale=2, handletextpad=0.1)


# %% tags=["picture-first"] alt="Left: for all rows, sorted by the prediction of the network, its 90 % interval as a band, its mean as a line, and the observed targets as dots, orange where they lie outside. Right: three paired gains in log density with two standard errors, beside a line at zero." jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2))
draw_intervals(left, *held_out["network"])
pairs = [("forest", "line"), ("network", "line"), ("network", "forest")]
for place, pair in enumerate(pairs):
    centre, error, word = verdict(*pair, density)
    colour = PALETTE[{"better": "green", "worse": "orange"}.get(word, "black")]
    _ = right.errorbar(centre, place, xerr=2 * error, fmt="o", color=colour, capsize=5)
    label = {"ha": "center", "va": "center", "color": colour, "backgroundcolor": "white"}
    _ = right.text(centre, place + 0.3, word, fontsize="small", **label)
_ = right.axvline(0, color=PALETTE["black"], ls="--", lw=1)
_ = right.set_yticks(range(3), [f"{a} − {b}" for a, b in pairs])
_ = right.set(xlabel="gain in log density (nats per row)", ylim=(2.6, -0.4))
_ = right.set_title("who wins? bars: two standard errors", fontsize="medium")

# %% [markdown] slideshow={"slide_type": "subslide"}
# Left, every row of the table when it was held out (few different values are spread a little).
# Right, the paired gains. A bar that crosses the dashed line says: this table cannot tell the two
# models apart. Then take the simpler one.
#
# **What the standard error leaves out.** It says how the mean gain would vary with other groups
# *for these five fitted models*. It does not contain
# - the luck of the training rows: the five training sets overlap, and another table would train
#   other models;
# - the luck of the start: another `SEED` deals other folds and other first weights (try three);
# - your choices: if you try ten settings and keep the best on these folds, its gain is too good;
# - the future: next year's rows may not be like these.
#
# So treat two standard errors as the least that a claim needs. The settings in the cell of
# parameters were chosen in a few trials on the three tables at hand. For yours nobody tuned them.

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### When the network loses
# It often does, and that is a result. With some hundred noisy rows there is little to find beyond
# a line. Go through this list; **if you try settings, compare them with another `SEED`, and report
# the comparison once, at the end.**
# 1. **Is it a loss?** If the bar crosses zero: no. Take the line, and say that they are level.
# 2. **Few rows for its weights?** It has about `HIDDEN` × (columns + 2) of them. Try `HIDDEN = 4`.
# 3. **Is it trained?** See the loss curve. Try twice the `STEPS`.
# 4. **The line wins clearly?** Give the network the line: add `x @ w0` with weights `w0` of their
#    own to `mean`. Then the hidden units only have to find what is bent.
# 5. **The forest wins clearly?** Then the truth has steps, or few of many columns matter. Use the
#    forest, with its honest interval.
# 6. **Coverage is wrong?** Long tails: take logarithms of columns, or of the target. Noise that
#    differs from row to row: a second output, as in the first notebook.
# 7. **Is mean field to blame?** Import `AutoMultivariateNormal`, and take it as the guide.
# 8. **Still behind?** Publish the line, with its interval. You have shown that it suffices.

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
centre, error, word = verdict("network", "line", density)
told = (
    f"**For your report.** {n} rows in {independent} groups; inputs: {d}; target: {table.target}. "
    f"Five grouped folds, every row held out once. The Bayesian network ({HIDDEN} hidden units, "
    f"mean field) gains {centre:+.3f} ± {error:.3f} nats per row over Bayesian linear regression "
    f"(paired, standard error over groups): {word}. Its 90 % intervals hold "
    f"{coverage['network']:.1%} (mean width {width['network']:.3g}), those of the line "
    f"{coverage['line']:.1%} ({width['line']:.3g})."
)
display(Markdown(told))

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 6 A density for the inputs
# Which rows are usual, which are strange? A density $p(x)$ of the inputs says so, and can draw new
# rows. Three candidates: one Gaussian, a mixture of Gaussians, a flow. They are scored by the log
# density of held-out rows, in nats, in units of the training rows' standard deviations.
#
# **Undo the rounding first.** A column with few different values has no density. A model may put
# spikes on the values and win without end, as with rounded targets. So we add uniform noise, as
# wide as the smallest step of the column. This is called *dequantisation*. The mean score is then
# at most the mean log probability of the rounded rows, up to a constant of the units: spikes no
# longer pay. All models get the same noisy rows.

# %%
step = torch.stack([column.unique().diff().min() for column in x.T])  # (d,)
generator = torch.Generator().manual_seed(SEED)
smooth = x + step * (torch.rand(x.shape, generator=generator, dtype=x.dtype) - 0.5)  # (n, d)


def three_sets(k):
    """Fold k for testing, the next one to choose and to stop, three to train; (n, d) each."""
    validation = (k + 1) % FOLDS
    train = smooth[(fold != k) & (fold != validation)]
    parts = (train, smooth[fold == validation], smooth[fold == k])
    return [standardise(part, train).to(device) for part in parts]


train, validation, test = three_sets(0)
print(f"{len(train)} training rows, {len(validation)} validation rows, {len(test)} test rows")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Gaussians.** One Gaussian is a mixture of one. The number of a mixture is chosen on the
# validation rows. `reg_covar` keeps every Gaussian at least 0.03 standard deviations wide in each
# direction.


# %%
def fit_mixture(train, validation, counts):
    """Mixture of Gaussians; the number that scores best on the validation rows."""
    options = {"reg_covar": 1e-3, "n_init": 2, "init_params": "k-means++", "max_iter": 500}
    best = None
    for count in counts:
        mixture = GaussianMixture(count, random_state=SEED, **options)
        mixture.fit(train.cpu().double().numpy())
        score = mixture.score(validation.cpu().double().numpy())
        if best is None or score > best[0]:
            best = score, mixture
    return best[1]


gaussian = fit_mixture(train, validation, [1])
at_gaussian = gaussian.score(validation.cpu().double().numpy())  # mean over the rows
print(f"one Gaussian: {at_gaussian:.2f} nats on the validation rows")

# %% [markdown] slideshow={"slide_type": "subslide"}
# **A flow**, from zuko. A flow is called without arguments, and what comes back is a distribution.

# %%
torch.manual_seed(SEED)
flow = zuko.flows.NSF(d, transforms=3).to(device)  # the library's own sizes
print(flow().log_prob(test[:4]).shape, flow().sample((4,)).shape)
weights = sum(p.numel() for p in flow.parameters())
print(f"{weights:,} weights for {train.numel():,} numbers in the training rows")

# %% [markdown] slideshow={"slide_type": "subslide"}
# ### Exercise 4: train a flow (8 minutes)
# Train `flow` by maximum likelihood on the rows `train` $(n, d)$: `steps` steps of Adam with
# learning rate `lr`, each on 128 training rows drawn at random. After each step note the mean log
# density of the rows `validation`. Return these scores, `steps` of them. The flow itself is
# changed; leave it as the last step leaves it.


# %% tags=["exercise"]
def my_training(flow, train, validation, steps, lr):
    """Train in place; rows (n, d) and (m, d) -> the score on the second after each step, nats."""
    return ...


checks.check_table_flow(my_training)

# %% [markdown] slideshow={"slide_type": "skip"}
# <details><summary>Hint 1</summary>
#
# An optimiser minimises, and a log density should grow. `torch.randint(len(train), (128,))` draws
# rows.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Three lines make a step: forget the old gradients, compute new ones, move. The score needs no
# gradient: `with torch.no_grad():`, and `.item()` makes it a number.
#
# </details>


# %% tags=["reference"] jupyter={"source_hidden": true} slideshow={"slide_type": "skip"}
# The course's own version
def course_training(flow, train, validation, steps, lr):
    optimiser = torch.optim.Adam(flow.parameters(), lr=lr)
    scores = []
    for _ in range(steps):
        batch = train[torch.randint(len(train), (128,))]  # (128, d)
        optimiser.zero_grad()
        (-flow().log_prob(batch).mean()).backward()
        optimiser.step()
        with torch.no_grad():
            scores.append(flow().log_prob(validation).mean().item())
    return scores


assert checks.check_table_flow(course_training)

# %% [markdown] slideshow={"slide_type": "subslide"}
# **Predict first:** the flow above, of the library's own sizes, is trained on three folds of your
# table for 200 steps. What does the score on the *validation* rows do?

# %%
predict("too long", "it rises to the end", "it rises, then stays level", "it rises, then falls")

# %%
training = my_training if checks.check_table_flow(my_training) else course_training
torch.manual_seed(SEED)
flow = zuko.flows.NSF(d, transforms=3).to(device)
scores = torch.tensor(training(flow, train, validation, 200, 0.005))  # (200,)
best = int(scores.argmax()) + 1
with torch.no_grad():
    own = flow().log_prob(train).mean()
print(f"best after {best} steps: {scores.max():.2f} nats; at the end {scores[-1]:.2f}", end="")
print(f", and {own:.2f} on its training rows")

# %% alt="The score of the flow on the validation rows over the steps of the training, with a dashed line for one Gaussian and a dot at the best step." jupyter={"source_hidden": true}
fig, ax = plt.subplots(figsize=(7, 3))
_ = ax.plot(range(1, 201), scores, label="flow, validation rows")
_ = ax.plot(best, scores.max(), "o", color=PALETTE["orange"], label=f"best: step {best}")
_ = ax.axhline(at_gaussian, color=PALETTE["black"], ls="--", lw=1, label="one Gaussian")
lowest = min(at_gaussian, scores[best:].min().item() if best < 200 else at_gaussian)
_ = ax.set(xlabel="step", ylabel="log density (nats per row)", ylim=(lowest - 2, None))
_ = ax.legend(loc="best")

# %% tags=["answer"] jupyter={"source_hidden": true} slideshow={"slide_type": "fragment"}
# Answer
answer(
    "too long",
    "it rises, then falls",
    "Tens of thousands of weights and some hundred rows: after the shape it learns the rows, and the "
    "score on those keeps rising. (With one or two columns it has few weights, and may stay level.)",
)

# %% [markdown] slideshow={"slide_type": "subslide"}
# Two cures. **Stop in time:** train once, look for the best step on the validation rows, and train
# again from the same start for as many steps. **Be smaller:** one layer of splines with four bins,
# placed by 16 hidden units, in place of three layers with eight bins and 64. (What you type may
# also keep a copy of the best weights. Training again is shorter to write.)


# %%
def small_flow(d):
    """One autoregressive layer of splines."""
    torch.manual_seed(SEED)
    return zuko.flows.NSF(d, transforms=1, bins=4, hidden_features=(16,))


def fit_flow(train, validation):
    """Train, find the best step on the validation rows, train again until there."""
    flow = small_flow(train.shape[1]).to(train.device)
    scores = torch.tensor(training(flow, train, validation, FLOW_STEPS, 0.03))
    stop = int(scores.argmax()) + 1
    flow = small_flow(train.shape[1]).to(train.device)
    training(flow, train, validation, stop, 0.03)
    return flow, stop


# %%
def score(density, rows):
    """Log density of each row, (n, d) -> (n,), nats."""
    if isinstance(density, GaussianMixture):
        return torch.tensor(density.score_samples(rows.cpu().double().numpy()))
    with torch.no_grad():
        return density().log_prob(rows).cpu().double()


log_p = {name: torch.zeros(n).double() for name in ("Gaussian", "mixture", "flow")}
chosen, stops = [], []
for k in bar(range(FOLDS), desc="densities"):
    *sets, new = three_sets(k)  # to train and to choose; to test
    fitted = {"Gaussian": fit_mixture(*sets, [1]), "mixture": fit_mixture(*sets, range(1, 9))}
    fitted["flow"], stop = fit_flow(*sets)
    for name, each in fitted.items():
        log_p[name][fold == k] = score(each, new)
    chosen.append(fitted["mixture"].n_components)
    stops.append(stop)
print(f"Gaussians in the mixture: {chosen}; steps of the flow, of {FLOW_STEPS}: {stops}")
assert all(values.isfinite().all() for values in log_p.values())

# %% jupyter={"source_hidden": true} slideshow={"slide_type": "subslide"}
one = d + d * (d + 1) // 2
sizes = {"Gaussian": f"{one}", "flow": f"{sum(p.numel() for p in small_flow(d).parameters())}"}
sizes["mixture"] = " / ".join(f"{count * (one + 1) - 1}" for count in chosen)
lines = ["| density | log density (nats per row) | gain over one Gaussian | numbers learnt |"]
lines += ["| --- " * 4 + "|"]
for name, values in log_p.items():
    centre, error, word = verdict(name, "Gaussian", log_p)
    gained = "" if name == "Gaussian" else f"{centre:+.2f} ± {error:.2f}, {word}"
    row = f"{values.mean():.2f} | {gained} | {sizes[name]}".replace("-", "−")
    lines.append(f"| {name} | {row} |")
centre, error, word = verdict("flow", "mixture", log_p)
told = f"The flow gains {centre:+.2f} ± {error:.2f} nats per row over the mixture: {word}."
display(Markdown("\n".join(lines) + "\n\n" + told.replace("-", "−")))

# %% [markdown] slideshow={"slide_type": "subslide"}
# Five folds, every row held out once, paired as before; the mixture's sizes are those of the five
# folds. Training rows are the same for all three. The validation rows chose a number and a step;
# one Gaussian has no use for them.
#
# ### When the flow loses
# 1. **To one Gaussian?** Count rows per weight. With about a hundred rows expect it, and take it.
# 2. **Was it stopped in time?** See the steps above. If the best is often the last, raise
#    `FLOW_STEPS`.
# 3. **Is it small enough?** One layer, few bins, few hidden units; then grow, and watch the
#    validation rows, never the test rows.
# 4. **Look at the columns.** Long tails: take logarithms. Columns that add up to a constant have
#    no density: drop one.
# 5. **The mixture wins?** Use it. It fits in a second, tells you how likely each part is, and
#    conditions in closed form.
# 6. **The flow wins?** Then something is bent that Gaussians would need many pieces for. Draw from
#    it and look whether you believe the rows.

# %% [markdown] slideshow={"slide_type": "slide"}
# ## 7 What you saw
# - Groups before folds, folds before models. No row was judged by a model that knew its twin.
# - An error on one's own training rows says how well a model remembers: the forest's intervals
#   held far fewer than nine rows of ten.
# - A prior that fits any table keeps the spread of the output near one, whatever its size.
# - Coverage *and* width; a gain *with* its paired error over groups, and what that leaves out.
# - The three tables at hand end differently. Whether a network, or a flow, is worth it is a
#   question to the table. You have the experiment that answers it.
#
# **In practice.** Keep a last part of your rows for one test at the very end. Write down what you
# tried. For long tables use mini-batches (`pyro.plate` with `subsample_size`). For yes or no take
# `dist.Bernoulli(logits=mean)`, for counts `dist.Poisson`.
#
# **Further reading.** Grinsztajn et al. (2022),
# [Why do tree-based models still outperform deep learning on tabular
# data?](https://arxiv.org/abs/2207.08815) · Gneiting and Raftery (2007), [Strictly proper scoring
# rules](https://doi.org/10.1198/016214506000001437) · Bengio and Grandvalet (2004), [No unbiased
# estimator of the variance of K-fold
# cross-validation](https://www.jmlr.org/papers/v5/grandvalet04a.html) · Theis et al. (2016), [A
# note on the evaluation of generative models](https://arxiv.org/abs/1511.01844).

# %% tags=["progress"]
progress.show("your_own_table")
