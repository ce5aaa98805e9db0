"""Data: values, exact densities, and splits without twins."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_moons

from course_utils import data
from tests.bad_input import INF, JUNK, META, NAN, NO_COUNT, NO_NUMBER, NO_SEED, refusals

POINTS, LABELS = torch.zeros(3, 2), torch.arange(10)
NO_ROWS = [None, "a", 3.0, {}, [[1], [1, 2]], [["a", "b"]], [[1j, 0]], [[NAN, 0.0]], [[INF, 0.0]]]
NO_ROWS += [np.zeros((3, 0)), np.array([[object()]]), torch.zeros(2, 2, 2), POINTS.to(META)]
NO_POINTS = [*JUNK, POINTS.numpy(), POINTS.long(), POINTS * 1j, POINTS * NAN, POINTS.to(META)]
NO_POINTS += [POINTS[0], POINTS[None], torch.zeros(3, 3)]
NO_LABELS = [3, "a", [], [[1], [1, 2]], torch.zeros(9), np.zeros((10, 2)), np.full(10, NAN)]
NO_LABELS += [LABELS.to(META), LABELS.to_sparse()]
NO_SHARES = [None, "abc", (), 0.7, (0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (1j, 0, 0)]
NO_SHARES += [("0.7", "0.15", "0.15"), {0.7, 0.1, 0.2}, (INF, -INF, 1), (NAN, 0.5, 0.5)]
NO_SPLIT = {"n": NO_COUNT, "seed": [*NO_SEED, 2**32], "fractions": NO_SHARES, "groups": NO_LABELS}
NO_DENSITY = {"x": NO_POINTS, "noise": [*NO_NUMBER, 0.001]}
NO_MOONS = {"n": NO_COUNT, "noise": [*NO_NUMBER, 0, -1], "seed": NO_SEED}

test_a_bad_argument_is_refused_by_name = refusals(
    (data.load_wine_quality, {}, {"colour": [*JUNK, "", "rose", "Red", "white ", ["red"]]}),
    (data.load_mnist, {}, {"full": [None, "yes", 1, 0.0, [], np.ones(2), torch.tensor(True)]}),
    (data.make_two_moons, {"n": 10, "noise": 0.1, "seed": 0}, NO_MOONS),
    (data.two_moons_log_prob, {"x": POINTS, "noise": 0.1}, NO_DENSITY),
    (data.duplicate_groups, {"x": POINTS}, {"x": NO_ROWS}),
    (data.split_indices, {"n": 10, "seed": 0}, {**NO_SPLIT, "stratify": [*NO_LABELS, LABELS]}),
)


@pytest.mark.mistake("D4")
def test_red_wine():
    wine = data.load_wine_quality("red")
    assert wine.x.shape == (1599, 11) and wine.y.shape == (1599,)
    assert wine.x.dtype == wine.y.dtype == torch.float64
    assert len(wine.feature_names) == len(wine.units) == 11
    assert wine.y.unique().tolist() == [3, 4, 5, 6, 7, 8]
    alcohol = wine.x[:, wine.feature_names.index("alcohol")]
    assert 8 < alcohol.min() and alcohol.max() < 15  # % by volume
    # The published count of rows that repeat an earlier one.
    rows = torch.cat([wine.x, wine.y[:, None]], 1)
    assert 1599 - len(data.duplicate_groups(rows).unique()) == 240


def test_bundled_mnist_keeps_the_official_parts_apart():
    digits = data.load_mnist()
    assert [len(part) for part in digits] == [16000, 16000, 2000, 2000, 2000, 2000]
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.min() == 0 and x.max() == 1
        # Class frequencies of MNIST lie between 9.0 % (five) and 11.3 % (one).
        shares = y.bincount(minlength=10) / len(y)
        assert 0.085 < shares.min() and shares.max() < 0.115
    with np.load(data.DATA_DIR / "mnist-20000.npz") as file:
        train, val = set(file["index_train"].tolist()), set(file["index_val"].tolist())
        assert len(train) == 16000 and len(val) == 2000 and not train & val
        assert max(train | val) < 60000 and max(file["index_test"]) < 10000


def test_all_of_mnist_is_split_inside_its_official_parts(tmp_path, monkeypatch):
    number = np.arange(70000) % 60000
    images, labels = np.zeros((70000, 28, 28), np.uint8), number % 10
    images[:, 0, 0], images[:, 0, 1] = number % 256, number // 256
    parts = {"x_train": images[:60000], "y_train": labels[:60000]}
    path = tmp_path / "mnist.npz"
    np.savez(path, **parts, x_test=images[60000:], y_test=labels[60000:])
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(data.SOURCES, "mnist.npz", data.Source("", data.sha256(path), False))
    full = data.load_mnist(full=True)
    train, val, test = ((255 * x[:, :2]).round() @ torch.tensor([1.0, 256]) for x in full[::2])
    assert torch.cat([train, val]).sort().values.equal(torch.arange(60000.0)) and len(val) == 10000
    assert test.equal(torch.arange(10000.0))
    assert full.y_train.equal((train % 10).long()) and full.y_val.bincount().tolist() == [1000] * 10


@pytest.mark.parametrize(("noise", "entropy"), [(0.05, 0.28923), (0.1, 1.00758)])
def test_two_moons_density_integrates_to_one_and_has_the_known_entropy(noise, entropy):
    x1 = torch.linspace(-1.6, 2.6, 251, dtype=torch.float64)
    x2 = torch.linspace(-1.1, 1.6, 161, dtype=torch.float64)
    log_p = data.two_moons_log_prob(torch.cartesian_prod(x1, x2), noise=noise)
    cell = (x1[1] - x1[0]) * (x2[1] - x2[0])
    assert (log_p.exp().sum() * cell).item() == pytest.approx(1, abs=1e-6)
    assert -(log_p.exp() * log_p).sum().item() * cell == pytest.approx(entropy, abs=2e-5)
    nll = -data.two_moons_log_prob(data.make_two_moons(100_000, noise=noise, seed=1).x, noise=noise)
    assert abs(nll.mean() - entropy) < 4 * nll.std() / math.sqrt(len(nll))  # it is drawn from


@pytest.mark.mistake("F3")
def test_two_moons_has_the_curves_of_scikit_learn():
    x, y = make_moons(2000, noise=None)
    on_curve = data.two_moons_log_prob(torch.tensor(x), noise=0.01)
    shifted = data.two_moons_log_prob(torch.tensor(x + [0, 0.05]), noise=0.01)
    assert on_curve.min() > 0 and shifted.median() < on_curve.median() - 3
    ours = data.make_two_moons(5000, noise=0.01, seed=0)
    assert ours.x[ours.moon == 0][:, 1].mean() > ours.x[ours.moon == 1][:, 1].mean()


def test_two_moons_density_far_away_of_no_points_and_its_gradient():
    far = data.two_moons_log_prob(torch.tensor([[1e3, -1e3]]), noise=0.05)
    assert far.isfinite().all() and far < -1e6
    assert data.two_moons_log_prob(torch.zeros(0, 2), noise=0.05).shape == (0,)
    x = torch.tensor([[0.3, 0.9], [1.2, -0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: data.two_moons_log_prob(x, noise=0.2), x)


@given(
    n=st.integers(3, 300),
    seed=st.integers(0, 2**31),
    labels=st.integers(1, 40),
    share=st.sampled_from([(0.7, 0.15, 0.15), (0.9, 0, 0.1), (0.5, 0.25, 0.25), (1, 0, 0)]),
)
@settings(max_examples=60, deadline=None)
def test_split_is_disjoint_exhaustive_reproducible_and_keeps_groups(n, seed, labels, share):
    groups = np.random.default_rng(seed).integers(0, labels, n)
    for group in (None, groups):
        split = data.split_indices(n, fractions=share, groups=group, seed=seed)
        again = data.split_indices(n, fractions=share, groups=group, seed=seed)
        assert all(a.equal(b) for a, b in zip(split, again, strict=True))
        assert torch.cat(split).sort().values.equal(torch.arange(n))
        members = np.arange(n) if group is None else group
        sides = [set(members[part.numpy()].tolist()) for part in split]
        assert sum(map(len, sides)) == len(set(members.tolist()))  # no group on two sides
        for side, fraction in zip(sides[1:], share[1:], strict=True):
            assert abs(len(side) - fraction * len(set(members.tolist()))) <= 0.5


@given(seed=st.integers(0, 2**31), rare=st.integers(10, 60))
@settings(max_examples=20, deadline=None)
def test_stratified_split_keeps_the_shares(seed, rare):
    y = np.repeat([0, 1], [200 - rare, rare])
    split = data.split_indices(200, stratify=y, seed=seed)
    for part, fraction in zip(split, (0.7, 0.15, 0.15), strict=True):
        assert abs(y[part].sum() - fraction * rare) <= 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_duplicate_groups_label_equal_rows_alike(rows):
    label = data.duplicate_groups(torch.tensor(rows, dtype=torch.float64))
    for i, a in enumerate(rows):
        assert [label[i] == other for other in label] == [a == b for b in rows]
