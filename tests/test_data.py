"""Data: values, exact densities, bad files, interrupted downloads."""

import hashlib
import http.server
import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_moons

from course_utils import data
from course_utils.data import (
    duplicate_groups,
    load_mnist,
    load_wine_quality,
    make_two_moons,
    split_indices,
    two_moons_log_prob,
)


def test_red_wine():
    wine = load_wine_quality("red")
    assert wine.x.shape == (1599, 11) and wine.y.shape == (1599,)
    assert wine.x.dtype == wine.y.dtype == torch.float64
    assert len(wine.feature_names) == len(wine.units) == 11
    assert wine.y.unique().tolist() == [3, 4, 5, 6, 7, 8]
    alcohol = wine.x[:, wine.feature_names.index("alcohol")]
    assert 8 < alcohol.min() and alcohol.max() < 15  # % by volume
    # The published count of rows that repeat an earlier one.
    rows = torch.cat([wine.x, wine.y[:, None]], 1)
    assert 1599 - len(duplicate_groups(rows).unique()) == 240


def test_bundled_mnist_keeps_the_official_parts_apart():
    digits = load_mnist()
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
    assert (data.DATA_DIR / "mnist-20000.npz").stat().st_size < 4e6


def test_all_of_mnist_is_split_inside_its_official_parts(tmp_path, monkeypatch):
    images = np.zeros((70000, 28, 28), np.uint8)
    images[:, 0, :3] = np.stack([np.arange(70000) // 256**i % 256 for i in range(3)], -1)
    labels = (np.arange(70000) % 10).astype(np.uint8)
    path = tmp_path / "mnist.npz"
    parts = {"x_train": images[:60000], "y_train": labels[:60000]}
    np.savez_compressed(path, **parts, x_test=images[60000:], y_test=labels[60000:])
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(data.SOURCES, "mnist.npz", data.Source("", data.sha256(path), False))
    full = load_mnist(full=True)
    numbers = [
        (x[:, :3] * 255).double().round() @ torch.tensor([1, 256, 256**2], dtype=torch.float64)
        for x in (full.x_train, full.x_val, full.x_test)
    ]
    assert [len(part) for part in numbers] == [50000, 10000, 10000]
    assert torch.cat(numbers[:2]).sort().values.equal(torch.arange(60000.0, dtype=torch.float64))
    assert numbers[2].equal(torch.arange(60000.0, 70000, dtype=torch.float64))
    assert full.y_val.bincount().tolist() == [1000] * 10
    assert (full.y_train == numbers[0] % 10).all()


def test_unknown_colour():
    with pytest.raises(ValueError, match='"red" or "white", not \'rose\''):
        load_wine_quality("rose")


@pytest.mark.parametrize(("noise", "entropy"), [(0.05, 0.28923), (0.1, 1.00758)])
def test_two_moons_density_integrates_to_one_and_has_the_known_entropy(noise, entropy):
    x1 = torch.linspace(-1.6, 2.6, 500, dtype=torch.float64)
    x2 = torch.linspace(-1.1, 1.6, 400, dtype=torch.float64)
    log_p = two_moons_log_prob(torch.cartesian_prod(x1, x2), noise=noise)
    cell = (x1[1] - x1[0]) * (x2[1] - x2[0])
    assert (log_p.exp().sum() * cell).item() == pytest.approx(1, abs=1e-6)
    assert -(log_p.exp() * log_p).sum().item() * cell == pytest.approx(entropy, abs=2e-5)


def test_two_moons_density_is_the_one_that_is_drawn_from():
    x = make_two_moons(200_000, noise=0.1, seed=1).x.double()
    nll = -two_moons_log_prob(x, noise=0.1)
    error = nll.std() / math.sqrt(len(x))
    assert abs(nll.mean() - 1.00758) < 4 * error
    # Share of points in a box against the integral of the density over the box.
    side = torch.linspace(0.0, 0.5, 201, dtype=torch.float64)
    centres = (side[1:] + side[:-1]) / 2
    p = two_moons_log_prob(torch.cartesian_prod(centres, centres), noise=0.1).exp()
    share = ((x > 0) & (x < 0.5)).all(1).double().mean()
    assert share == pytest.approx(p.mean().item() * 0.25, abs=4 * 0.5 / math.sqrt(len(x)))


def test_two_moons_has_the_curves_of_scikit_learn():
    x, y = make_moons(2000, noise=None)
    on_curve = two_moons_log_prob(torch.tensor(x), noise=0.01)
    shifted = two_moons_log_prob(torch.tensor(x + [0, 0.05]), noise=0.01)
    assert on_curve.min() > 0 and shifted.median() < on_curve.median() - 3
    ours = make_two_moons(5000, noise=0.01, seed=0)
    assert ours.x[ours.moon == 0][:, 1].mean() > ours.x[ours.moon == 1][:, 1].mean()


def test_two_moons_far_away_and_empty():
    far = two_moons_log_prob(torch.tensor([[1e3, -1e3]]), noise=0.05)
    assert far.isfinite().all() and far < -1e6
    assert two_moons_log_prob(torch.zeros(0, 2), noise=0.05).shape == (0,)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(3, 3), torch.zeros(1, 2, 2)])
def test_two_moons_bad_shape(bad):
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        two_moons_log_prob(bad, noise=0.05)


@pytest.mark.parametrize("noise", [0, -1, math.nan, math.inf])
def test_two_moons_bad_noise(noise):
    with pytest.raises(ValueError, match="noise"):
        make_two_moons(10, noise=noise, seed=0)
    with pytest.raises(ValueError, match="noise"):
        two_moons_log_prob(torch.zeros(1, 2), noise=noise)


# ------------------------------------------------------------------------------------ splitting


@given(
    n=st.integers(3, 300),
    seed=st.integers(0, 2**31),
    labels=st.integers(1, 40),
    share=st.sampled_from([(0.7, 0.15, 0.15), (0.9, 0, 0.1), (0.5, 0.25, 0.25), (1, 0, 0)]),
)
@settings(max_examples=150, deadline=None)
def test_split_is_disjoint_exhaustive_reproducible_and_keeps_groups(n, seed, labels, share):
    groups = np.random.default_rng(seed).integers(0, labels, n)
    for group in (None, groups):
        split = split_indices(n, fractions=share, groups=group, seed=seed)
        again = split_indices(n, fractions=share, groups=group, seed=seed)
        assert all(a.equal(b) for a, b in zip(split, again, strict=True))
        assert torch.cat(split).sort().values.equal(torch.arange(n))
        members = np.arange(n) if group is None else group
        sides = [set(members[part.numpy()].tolist()) for part in split]
        assert sum(map(len, sides)) == len(set(members.tolist()))  # no group on two sides
        for side, fraction in zip(sides[1:], share[1:], strict=True):
            assert abs(len(side) - fraction * len(set(members.tolist()))) <= 0.5


@given(seed=st.integers(0, 2**31), rare=st.integers(10, 60))
@settings(max_examples=50, deadline=None)
def test_stratified_split_keeps_the_shares(seed, rare):
    y = np.repeat([0, 1], [200 - rare, rare])
    split = split_indices(200, stratify=y, seed=seed)
    for part, fraction in zip(split, (0.7, 0.15, 0.15), strict=True):
        assert abs(y[part].sum() - fraction * rare) <= 1


def test_other_seed_other_split():
    assert not split_indices(100, seed=0).test.equal(split_indices(100, seed=1).test)


def test_grouped_split_leaves_no_twin_between_sides():
    wine = load_wine_quality()
    groups = duplicate_groups(wine.x)
    split = split_indices(1599, groups=groups, stratify=wine.y, seed=0)
    sides = [set(map(tuple, wine.x[part].tolist())) for part in split]
    assert not sides[0] & sides[2] and not sides[0] & sides[1] and not sides[1] & sides[2]
    leaky = split_indices(1599, seed=0)
    train, test = (set(map(tuple, wine.x[part].tolist())) for part in (leaky.train, leaky.test))
    assert len(train & test) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 10, "fractions": (0.5, 0.5)}, "three non-negative"),
        ({"n": 10, "fractions": (0.5, 0.2, 0.2)}, "sum 1"),
        ({"n": 10, "fractions": (1.2, -0.1, -0.1)}, "non-negative"),
        ({"n": 10, "fractions": (math.nan, 0.5, 0.5)}, "sum 1"),
        ({"n": 0}, "positive"),
        ({"n": 10, "groups": torch.zeros(9)}, r"groups must have shape \(10,\)"),
        ({"n": 10, "stratify": np.zeros((10, 1))}, r"stratify must have shape \(10,\)"),
    ],
)
def test_split_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        split_indices(**arguments, seed=0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_duplicate_groups_label_equal_rows_alike(rows):
    label = duplicate_groups(torch.tensor(rows, dtype=torch.float64))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (label[i] == label[j]) == (a == b)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.tensor([[math.nan]])])
def test_duplicate_groups_refuse(bad):
    with pytest.raises(ValueError, match="finite array of shape"):
        duplicate_groups(bad)


# -------------------------------------------------------------------------- files and downloads

CONTENT = b"0;1\n" * 5000


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, at /half only the start of it, at /bad something else."""

    def do_GET(self):
        if self.path == "/gone":
            self.send_error(404)
            return
        body = {"/bad": b"<html>", "/half": CONTENT[:100]}.get(self.path, CONTENT)
        self.send_response(200)
        if self.path == "/half":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A loopback server; returns a function that makes white wine come from one of its pages."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "cache"))
    path = tmp_path / "cache" / "winequality-white.csv"

    def page(name, port=server.server_port):
        url = f"http://127.0.0.1:{port}/{name}"
        source = data.Source(url, hashlib.sha256(CONTENT).hexdigest(), bundled=False)
        monkeypatch.setitem(data.SOURCES, "winequality-white.csv", source)
        return path

    yield page
    server.shutdown()
    server.server_close()


def test_download_once_into_the_chosen_folder(remote):
    path = remote("whole")
    assert data.locate("winequality-white.csv") == path and path.read_bytes() == CONTENT
    remote("gone")  # no second download
    assert data.locate("winequality-white.csv") == path


@pytest.mark.parametrize("page", ["half", "gone"])
def test_failed_download_leaves_nothing(remote, page):
    path = remote(page)
    with pytest.raises(FileNotFoundError) as caught:
        data.locate("winequality-white.csv")
    for part in (str(path), f"/{page}", "Remedy", "COURSE_DATA_DIR"):
        assert part in str(caught.value)
    assert not list(path.parent.glob("*"))
    remote("whole")
    assert data.locate("winequality-white.csv").read_bytes() == CONTENT


def test_no_network_names_path_source_and_remedy(remote):
    path = remote("whole", port=9)  # nobody listens on the discard port
    with pytest.raises(FileNotFoundError) as caught:
        load_wine_quality("white")
    for part in (str(path), "127.0.0.1:9/whole", "Remedy"):
        assert part in str(caught.value)


def test_wrong_download_is_refused_with_both_hashes(remote):
    path = remote("bad")
    with pytest.raises(ValueError) as caught:
        data.locate("winequality-white.csv")
    for content in (b"<html>", CONTENT):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert not list(path.parent.glob("*"))


def test_altered_cached_file_is_refused_and_removed(remote):
    path = remote("whole")
    data.locate("winequality-white.csv")
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError) as caught:
        data.locate("winequality-white.csv")
    for content in (CONTENT[:-1], CONTENT):
        assert hashlib.sha256(content).hexdigest() in str(caught.value)
    assert not path.exists()
    assert data.locate("winequality-white.csv").read_bytes() == CONTENT


def test_unwritable_cache(remote, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    remote("whole")
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(FileNotFoundError, match="COURSE_DATA_DIR chooses another folder"):
        data.locate("winequality-white.csv")


def test_missing_and_altered_bundled_file(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "DATA_DIR", tmp_path)
    path = tmp_path / "winequality-red.csv"
    with pytest.raises(FileNotFoundError) as caught:
        load_wine_quality()
    for part in (str(path), "10.24432/C56S3T", "git checkout -- data/winequality-red.csv"):
        assert part in str(caught.value)
    path.write_text("altered")
    with pytest.raises(ValueError, match="git checkout") as caught:
        load_wine_quality()
    assert data.SOURCES["winequality-red.csv"].sha256 in str(caught.value)
    assert hashlib.sha256(b"altered").hexdigest() in str(caught.value)
    assert path.exists()  # never removes what git keeps


def test_two_moons_density_has_a_gradient():
    x = torch.tensor([[0.3, 0.9], [1.2, -0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: two_moons_log_prob(x, noise=0.2), x)
