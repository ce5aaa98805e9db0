"""Bad input to every public function and every exercise check: a clear error, and nothing lost.

Not repeated here: seeds, masses, noise and shapes in test_runtime.py, test_metrics.py and
test_data.py; half, absent and wrong downloads in test_data.py; damaged packages in test_main.py;
plausible mistakes in the exercises in test_nb_*.py.
"""

import array
import errno
import hashlib
import http.server
import inspect
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from course_utils import __main__ as report
from course_utils import checks, data, metrics, plotting, runtime

ROOT = Path(__file__).resolve().parents[1]
NAN, INF = math.nan, math.inf
META = torch.device("meta")  # a second device that every machine has; its tensors hold no values


# ---------------------------------------------------------------------- arguments of functions


def no_floats(*shape: int) -> list:
    """What is no tensor of finite floats of this shape."""
    good = torch.full(shape, 0.5)
    spoilt = [good.clone() for _ in range(3)]
    for tensor, value in zip(spoilt, (NAN, INF, -INF), strict=True):
        tensor.view(-1)[-1] = value
    others = [good.long(), good.bool(), good + 1j, good[:0], good.to(META), good.numpy()]
    return [None, "text", 0.5, good.tolist(), array.array("d", [0.5]), object(), *others, *spoilt]


NO_NUMBER = [None, "0.5", b"0.5", NAN, INF, -INF, [0.5], (), {}, 1j, True, object()]
NO_COUNT = [None, "2", "two", 2.5, NAN, INF, -1, 0, [2], (), 1j, True, np.float64(2)]
NO_SEED = [None, "0", -1, 0.5, NAN, INF, [0], 1j, True, torch.tensor(0)]
NO_AXES = ["left", 0, plt, [], object()]
GREY = torch.full((4, 9), 0.5)
TARGETS, DRAWS, SCALE = torch.ones(3), torch.rand(2, 3), torch.ones(2, 3)
BOX = (-1.0, 1.0, -1.0, 1.0)


def bowl(x):
    return -x.square().sum(-1)


# Function; arguments that are fine; for each argument, values that are not.
FUNCTIONS = [
    (
        data.locate,
        {},
        {
            "name": [
                None,
                "",
                3,
                NAN,
                [],
                {},
                "rose.csv",
                "../README.md",
                b"mnist.npz",
                "mnist.npz ",
            ]
        },
    ),
    (
        data.load_wine_quality,
        {},
        {"colour": [None, "", "Red", "white ", 0, ["red"], np.array(["red"] * 2), b"red", {}]},
    ),
    (data.load_mnist, {}, {"full": [None, "yes", 1, 0.0, "", [], np.ones(2), torch.tensor(True)]}),
    (
        data.make_two_moons,
        {"n": 10, "noise": 0.1, "seed": 0},
        {"n": [*NO_COUNT, torch.tensor(10)], "noise": NO_NUMBER, "seed": NO_SEED},
    ),
    (
        data.two_moons_log_prob,
        {"x": torch.zeros(3, 2), "noise": 0.1},
        {
            "x": [None, "x", [[0.0, 0.0]], np.zeros((3, 2)), torch.zeros(3, 2).long()]
            + [torch.zeros(3, 2) * 1j, torch.zeros(3, 2) * NAN, torch.zeros(3, 2, device=META)]
            + [torch.zeros(3, 2) == 0, torch.zeros(0), torch.tensor(0.0), torch.zeros(2, 3)],
            "noise": [*NO_NUMBER, 0.0, 0.001, 1e-300],
        },
    ),
    (
        data.duplicate_groups,
        {},
        {
            "x": [None, "text", 3.0, [[1], [1, 2]], [["a", "b"]], [[1j, 0]], [[INF, 0.0]], {}]
            + [np.zeros((3, 0)), np.array([[object()]]), torch.zeros(2, 2, device=META)]
            + [torch.eye(2).to_sparse(), torch.zeros(2, 2, 2), torch.full((2, 2), -INF)]
        },
    ),
    (
        data.split_indices,
        {"n": 10, "seed": 0},
        {
            "n": NO_COUNT,
            "seed": [*NO_SEED, 2**32],
            "fractions": [None, "abc", (), (1,), 0.7, (INF, -INF, 1), ("0.7", "0.15", "0.15")]
            + [{0.7, 0.1, 0.2}, (0.7, None, 0.3), (1j, 0, 0), torch.tensor([0.7, 0.15, 0.15])],
            "groups": [3, "a", torch.zeros(11), np.zeros((10, 2)), np.full(10, NAN), [[1], [1, 2]]]
            + [torch.zeros(10, device=META), torch.zeros(10).to_sparse(), []],
            "stratify": [3, "a", torch.zeros(9), torch.full((10,), NAN), np.arange(10), []],
        },
    ),
    (
        runtime.get_device,
        {},
        {
            "name": [None, 0, NAN, [], ["cpu"], np.array(["cpu"]), torch.device("cpu"), b"cpu"]
            + ["cpu:0", "cuda:-1", "cuda:999", "meta", "auto ", "cpu\n", "ü"]
        },
    ),
    (runtime.seed_everything, {}, {"seed": [NAN, INF, [0], 1j, True, 2**64, b"0", object()]}),
    (
        runtime.set_threads,
        {},
        {"n": [-1, 1.5, "2", NAN, INF, [1], (), 1j, True, 10**6, 2**63, -(2**63), np.float64(2)]},
    ),
    (metrics.mean_and_error, {}, {"values": [*no_floats(3), torch.tensor(1.0), torch.ones(1, 3)]}),
    (
        metrics.rmse,
        {"observed": TARGETS, "mean": TARGETS},
        {"observed": no_floats(3), "mean": [*no_floats(3), torch.ones(4), torch.ones(1, 3)]},
    ),
    *(
        (
            function,
            {"observed": TARGETS, "mean": DRAWS, "scale": SCALE},
            {
                "observed": no_floats(3),
                "mean": [*no_floats(2, 3), DRAWS.T, DRAWS[0], DRAWS[None]],
                "scale": [
                    *no_floats(2, 3),
                    SCALE[:, :2],
                    0 * SCALE,
                    -SCALE,
                    SCALE - torch.eye(2, 3),
                ],
            },
        )
        for function in (metrics.mixture_log_density, metrics.mixture_crps)
    ),
    (
        metrics.central_interval,
        {"draws": DRAWS, "mass": 0.9},
        {"draws": no_floats(2, 3), "mass": [*NO_NUMBER, 0.0, 1.0, -1, 90]},
    ),
    (
        metrics.coverage,
        {"observed": TARGETS, "draws": DRAWS, "mass": 0.9},
        {
            "observed": no_floats(3),
            "draws": [*no_floats(2, 3), DRAWS.T, TARGETS],
            "mass": [*NO_NUMBER, 90],
        },
    ),
    (
        metrics.pit,
        {"observed": TARGETS, "draws": DRAWS},
        {"observed": no_floats(3), "draws": [*no_floats(2, 3), DRAWS.T, TARGETS]},
    ),
    (
        plotting.plot_loss,
        {"curves": {"a": [2.0, 1.0]}, "xlabel": "step", "ylabel": "nats"},
        {
            "curves": [None, {}, [], "text", [[1.0, 2.0]], {"a": []}, {"a": "text"}, {"a": None}]
            + [{"a": ["1", "2"]}, {"a": 3.0}, {"a": [[1, 2], [3, 4]]}, {"a": [1, [2]]}]
            + [{"a": [1j]}, {"a": [1.0], "b": [None]}, {"a": torch.ones(2, device=META)}],
            "floor": NO_NUMBER[1:],
            "ax": NO_AXES,
        },
    ),
    (
        plotting.plot_intervals,
        {"observed": TARGETS, "draws": DRAWS, "unit": "points"},
        {
            "observed": no_floats(3),
            "draws": [*no_floats(2, 3), DRAWS.T],
            "mass": [*NO_NUMBER, 90],
            "ax": NO_AXES,
        },
    ),
    (
        plotting.plot_calibration,
        {"observed": TARGETS, "draws": DRAWS},
        {"observed": no_floats(3), "draws": [*no_floats(2, 3), DRAWS.T], "ax": NO_AXES},
    ),
    (
        plotting.plot_images,
        {"images": GREY, "rows": 2},
        {
            "images": [*no_floats(4, 9), GREY + 1, -GREY, 255 * GREY, GREY[None], GREY[:, :8]],
            "rows": [*NO_COUNT, 5, 10**9],
            "ax": NO_AXES,
        },
    ),
    (
        plotting.plot_density,
        {"log_prob": bowl, "extent": BOX, "points": 5},
        {
            "log_prob": [None, "bowl", 3.0, torch.zeros(25), lambda x: None, lambda x: "text"]
            + [lambda x: x, lambda x: 0.0, lambda x: bowl(x)[:3], lambda x: bowl(x).numpy()]
            + [lambda x: bowl(x) * NAN, lambda x: bowl(x) + INF, lambda x: 1e6 + bowl(x)],
            "extent": [None, "abcd", (), BOX[:3], (*BOX, 0.0), 3.0, (1.0, -1.0, -1.0, 1.0)]
            + [(-1.0, 1.0, 0.0, 0.0), (-INF, INF, -1.0, 1.0), (NAN, 1.0, -1.0, 1.0), list("abcd")],
            "points": [*NO_COUNT, 1, 10**6],
            "vmax": [*NO_NUMBER[1:], 0.0, -1.0],
            "ax": NO_AXES,
        },
    ),
]
# These take no argument, or a path that only Python's own open sees.
WITHOUT = {"cache_dir", "available_cores", "present_devices", "use_course_style", "sha256"}
INPUTS = [
    pytest.param(function, good | {name: bad}, name, id=f"{function.__name__}-{name}-{number}")
    for function, good, arguments in FUNCTIONS
    for name, values in arguments.items()
    for number, bad in enumerate(values)
]


def state() -> tuple:
    """What a refused call must not have changed."""
    generators = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    seeds = torch.get_rng_state().tolist()
    artists = [len(ax.get_children()) for n in plt.get_fignums() for ax in plt.figure(n).axes]
    return *generators, seeds, torch.get_num_threads(), plt.get_fignums(), artists


def test_every_public_function_is_tried_and_the_inputs_are_many():
    public = {
        name
        for module in (data, metrics, plotting, runtime)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public - WITHOUT == {function.__name__ for function, _, _ in FUNCTIONS}
    assert len(INPUTS) >= 200
    assert len(ANSWERS) * len(CHECKS) >= 200
    assert len(DAMAGES) + len(FOLDERS) + len(PAGES) >= 20


@pytest.mark.parametrize(("function", "good"), [(f, good) for f, good, _ in FUNCTIONS if good])
def test_the_good_arguments_are_good(function, good):
    function(**good)
    plt.close("all")


@pytest.mark.parametrize(("function", "arguments", "name"), INPUTS)
def test_a_bad_argument_is_named_and_nothing_happens(function, arguments, name):
    plt.close("all")
    before = state()
    with pytest.raises(ValueError) as caught:
        function(**arguments)
    message = str(caught.value)
    wanted = "device" if function is runtime.get_device else name
    assert re.search(rf"(?<!\w){wanted}\b.*\b(must|present)\b", message), message
    assert len(message) < 500, "a message, not a dump of the data"
    assert state() == before


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 1000),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.floats(), max_size=4),
    st.tuples(st.floats(), st.floats(), st.floats()),
    st.complex_numbers(),
    st.dictionaries(st.text(max_size=2), st.floats(), max_size=2),
)
CHEAP = [data.locate, data.make_two_moons, data.two_moons_log_prob, data.duplicate_groups]
CHEAP += [data.split_indices, runtime.get_device, runtime.seed_everything, metrics.coverage]
CHEAP += [metrics.mean_and_error, metrics.rmse, metrics.mixture_crps, metrics.central_interval]


@pytest.mark.parametrize("function", CHEAP)
@given(choice=st.data())
@settings(max_examples=60, deadline=None)
def test_junk_is_accepted_or_refused_but_never_something_else(function, choice):
    good, names = next((good, [*bad]) for f, good, bad in FUNCTIONS if f is function)
    name = choice.draw(st.sampled_from(names))
    try:
        function(**good | {name: choice.draw(JUNK)})
    except ValueError as error:
        assert ("device" if function is runtime.get_device else name) in str(error)


@given(st.binary(max_size=6), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_shapes_that_do_not_fit_are_refused(content, s, n):
    """Every shape of draws but (s, 3) for three targets."""
    draws = torch.rand(s, n) if content else torch.rand(s)
    if draws.ndim == 2 and n == 3 and s:
        assert 0 <= metrics.coverage(TARGETS, draws, mass=0.5) <= 1
    else:
        with pytest.raises(ValueError, match="draws must be"):
            metrics.coverage(TARGETS, draws, mass=0.5)


def test_a_size_that_no_machine_has_is_a_memory_error_at_once():
    with pytest.raises((MemoryError, ValueError)):
        data.make_two_moons(10**15, noise=0.1, seed=0)


@pytest.mark.parametrize("asked", ["", "0", "-1", "many", "²", "1e3", "4,2", "9" * 30])
def test_nonsense_in_the_users_variable_leaves_the_default(asked, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    usual = min(runtime.available_cores(), runtime.MOST_THREADS)
    try:
        assert runtime.set_threads() == usual
    finally:
        torch.set_num_threads(before)


def test_hash_of_what_is_no_file(tmp_path):
    for bad, error in ((tmp_path / "none", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(error, match=str(bad)):
            data.sha256(bad)
    with pytest.raises(TypeError, match="NoneType"):
        data.sha256(None)


# ---------------------------------------------------------------------------- exercise checks


class Strange:
    """Says that it can become an array, and cannot."""

    def __array__(self, *args, **kwargs):
        raise KeyError("no array")

    def __call__(self, *args):
        return self


def spoil(*args):
    """Change every argument in place, then fail."""
    for arg in args:
        if isinstance(arg, torch.Tensor):
            arg.fill_(NAN)
        elif isinstance(arg, list):
            arg.clear()
    raise AssertionError("spoilt")


def deep(*args):
    return deep(*args)


def raising(error):
    def answer(*args):
        raise error

    return answer


def giving(value):
    return lambda *args: value


ANSWERS = [
    *(
        0,
        1.5,
        NAN,
        -INF,
        [],
        {},
        b"",
        object(),
        torch.zeros(9, 9, 9),
        Strange(),
        int,
        print,
        Strange,
    ),
    *(spoil, deep, lambda: 0, lambda *, key: 0, lambda *args, **kwargs: kwargs["key"]),
    *map(
        raising, (MemoryError(), StopIteration(), AssertionError(), KeyError("k"), OSError(28, "x"))
    ),
    *map(raising, (SystemExit(1), UnicodeError("ü"), Warning("w"), torch.OutOfMemoryError("cuda"))),
    *map(giving, (INF, -INF, 1e308, 10**400, 1j, True, "nan", b"1", {1.0}, {"a": 1}, range(3))),
    *map(
        giving, (object(), Strange(), [[1.0], [1.0, 2.0]], [None], np.array(["a"]), torch.zeros(0))
    ),
    *map(giving, (np.array([object()]), torch.full((3,), 1j), torch.zeros(3, device=META))),
    *map(
        giving,
        (torch.eye(3).to_sparse(), torch.zeros(1, 1, 1, 1), (torch.zeros(2), torch.zeros(3))),
    ),
    *map(giving, (lambda: 0, type, torch, torch.distributions.Normal(0.0, 1.0))),
]
CHECKS = dict(
    inspect.getmembers(checks, lambda f: inspect.isfunction(f) and f.__name__[:6] == "check_")
)


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_turns_everything_into_a_verdict(name):
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    for number, answer in enumerate(ANSWERS):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be no help to a student
            verdict = CHECKS[name](answer)
        assert isinstance(verdict, checks.Verdict) and not verdict, (number, verdict)
        assert verdict.message[0] in "✗…" and len(verdict.message) < 400, number
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, dtype)


@pytest.mark.parametrize("name", sorted(set(CHECKS) - {"check_same_mask"}))
@given(junk=JUNK)
@settings(max_examples=15, deadline=None)
def test_a_check_survives_any_returned_value(name, junk):
    assert not CHECKS[name](lambda *args: junk)


def test_a_student_can_interrupt_a_check():
    with pytest.raises(KeyboardInterrupt):
        checks.check_lognormal(raising(KeyboardInterrupt()))


def test_an_answer_in_another_precision_is_right():
    right = torch.distributions.LogNormal(0.0, 1.0)
    for dtype in (torch.float32, torch.float64):
        assert checks.check_lognormal(lambda x, dtype=dtype: right.log_prob(x).to(dtype))


def test_a_count_that_is_not_whole_is_wrong():
    assert checks.check_active_units(lambda mu: (mu.var(0) > 0.01).sum())
    assert not checks.check_active_units(lambda mu: (mu.var(0) > 0.01).sum() + 0.4)


# ------------------------------------------------------------------------------- files on disk

CONTENT = b"0;1\n" * 5000
NAME = "winequality-white.csv"
DAMAGES = {
    "emptied": lambda content: b"",
    "one byte": lambda content: content[:1],
    "half": lambda content: content[: len(content) // 2],
    "last byte missing": lambda content: content[:-1],
    "first byte missing": lambda content: content[1:],
    "byte appended": lambda content: content + b"\0",
    "byte flipped": lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:],
    "line ends of Windows": lambda content: content.replace(b"\n", b"\r\n"),
    "twice": lambda content: content * 2,
    "page of an error": lambda content: b"<html>404</html>",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A copy of the red wine's file in a data folder of its own."""
    path = tmp_path / "winequality-red.csv"
    path.write_bytes((data.DATA_DIR / path.name).read_bytes())
    monkeypatch.setattr(data, "DATA_DIR", tmp_path)
    return path


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A downloaded file whose server is gone."""
    path = tmp_path / "cache" / NAME
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    monkeypatch.setenv("COURSE_DATA_DIR", str(path.parent))
    source = data.Source("http://127.0.0.1:9/", hashlib.sha256(CONTENT).hexdigest(), False)
    monkeypatch.setitem(data.SOURCES, NAME, source)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_the_course_is_named_and_kept(bundled, damage):
    damaged = DAMAGES[damage](bundled.read_bytes())
    bundled.write_bytes(damaged)
    with pytest.raises(ValueError, match="altered: expected SHA-256.*git checkout") as caught:
        data.load_wine_quality()
    assert str(bundled) in str(caught.value) and bundled.read_bytes() == damaged


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_download_is_named_and_removed(cached, damage):
    cached.write_bytes(DAMAGES[damage](CONTENT))
    with pytest.raises(ValueError, match="altered: expected SHA-256.*has been removed; call again"):
        data.locate(NAME)
    assert not cached.exists()
    with pytest.raises(FileNotFoundError, match="COURSE_DATA_DIR"):  # the server is gone
        data.locate(NAME)
    cached.write_bytes(CONTENT)  # what the message advises
    assert data.locate(NAME) == cached


@given(st.binary(max_size=64), st.integers(0, len(CONTENT)))
@settings(max_examples=50, deadline=None)
def test_any_other_content_is_refused(content, start):
    altered = CONTENT[:start] + content + CONTENT[start + len(content) :]
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(os.environ["COURSE_DATA_DIR"])
        source = data.Source("http://127.0.0.1:9/", hashlib.sha256(CONTENT).hexdigest(), False)
        patch.setitem(data.SOURCES, NAME, source)
        folder.mkdir(exist_ok=True)
        (folder / NAME).write_bytes(altered)
        if altered == CONTENT:
            assert data.locate(NAME)
        else:
            with pytest.raises(ValueError, match="altered"):
                data.locate(NAME)
        (folder / NAME).unlink(missing_ok=True)


def test_a_damaged_download_that_cannot_be_removed_is_still_named(cached, monkeypatch):
    cached.write_bytes(b"half")

    def forbidden(*args, **kwargs):
        raise PermissionError(errno.EACCES, "open in another program")

    monkeypatch.setattr(Path, "unlink", forbidden)
    with pytest.raises(ValueError, match="altered.*Remedy: remove the file; call again"):
        data.locate(NAME)


FOLDERS = {
    "a file": lambda tmp: tmp / "file",
    "inside a file": lambda tmp: tmp / "file" / "deeper",
    "a full device": lambda tmp: Path("/dev/full"),
    "inside a device": lambda tmp: Path("/dev/null/cache"),
    "not writable even for root": lambda tmp: Path("/proc/course"),
    "too long a name": lambda tmp: tmp / ("n" * 300),
    "a loop of links": lambda tmp: tmp / "loop",
    "a link to nowhere below a file": lambda tmp: tmp / "dangling",
}


@pytest.mark.skipif(sys.platform != "linux", reason="names devices of Linux")
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_cannot_hold_a_download_is_named(cached, tmp_path, monkeypatch, folder):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "nowhere")
    chosen = FOLDERS[folder](tmp_path)
    monkeypatch.setenv("COURSE_DATA_DIR", str(chosen))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileNotFoundError, match="Remedy: connect.*COURSE_DATA_DIR") as caught:
        data.locate(NAME)
    assert str(chosen / NAME) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before and cached.read_bytes() == CONTENT


@pytest.mark.parametrize("there", ["folder", "link to nowhere"])
def test_something_else_in_the_place_of_the_file(cached, there):
    cached.unlink()
    cached.mkdir() if there == "folder" else cached.symlink_to(cached.parent / "nowhere")
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        data.locate(NAME)


# ------------------------------------------------------------------------------------ downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT at /whole, and trouble elsewhere."""

    def do_GET(self):
        page = self.path.strip("/")
        if page == "dropped":
            self.connection.close()
            return
        if page in ("500", "403", "429"):
            self.send_error(int(page))
            return
        self.send_response(302 if page in ("loop", "away") else 200)
        if page in ("loop", "away"):
            self.send_header("Location", {"loop": "/loop", "away": "http://192.0.2.1/"}[page])
        if page in ("slow", "whole"):
            self.send_header("Content-Length", str(len(CONTENT)))
        if page == "gzip":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if page == "slow":
            self.wfile.write(CONTENT[:2000])
            self.wfile.flush()
            self.server.halfway.set()
            self.server.goes_on.wait(60)
            return
        self.wfile.write({"whole": CONTENT, "gzip": b"no gzip"}.get(page, b""))

    def log_message(self, *args):
        pass


PAGES = {
    "500": FileNotFoundError,
    "403": FileNotFoundError,
    "429": FileNotFoundError,
    "dropped": FileNotFoundError,
    "loop": FileNotFoundError,
    "away": FileNotFoundError,
    "gzip": FileNotFoundError,
    "empty": ValueError,
}


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A loopback server; returns the cache's file, and a function that chooses the page."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.halfway, server.goes_on = threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = tmp_path / "cache" / NAME
    monkeypatch.setenv("COURSE_DATA_DIR", str(path.parent))
    digest = hashlib.sha256(CONTENT).hexdigest()

    def choose(page, host="127.0.0.1"):
        source = data.Source(f"http://{host}:{server.server_port}/{page}", digest, False)
        monkeypatch.setitem(data.SOURCES, NAME, source)
        return source

    yield server, path, choose
    server.goes_on.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("page", PAGES)
def test_a_server_in_trouble(remote, page):
    _, path, choose = remote
    choose(page)
    with pytest.raises(PAGES[page]) as caught:
        data.locate(NAME)
    for part in (str(path), f"/{page}", "Remedy"):
        assert part in str(caught.value)
    assert not list(path.parent.glob("*"))
    choose("whole")
    assert data.locate(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("host", ["course.invalid", "192.0.2.1"])
def test_no_network(remote, host):
    _, path, choose = remote
    choose("whole", host)
    with pytest.raises(FileNotFoundError, match=f"{host}.*Remedy: connect and call again"):
        data.locate(NAME)
    assert not list(path.parent.glob("*"))


class Full:
    """A file on a disk that is full after the first thousand bytes."""

    def __init__(self, *args):
        self.file, self.room = open(*args), 1000

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(content)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_no_disk_space(remote, monkeypatch):
    import pooch.downloaders

    _, path, choose = remote
    choose("whole")
    monkeypatch.setattr(pooch.downloaders, "open", Full, raising=False)
    with pytest.raises(FileNotFoundError, match="No space left on device.*Remedy"):
        data.locate(NAME)
    assert not list(path.parent.glob("*"))
    monkeypatch.undo()


FETCH = """
import sys
from course_utils import data
data.SOURCES[sys.argv[1]] = data.Source(sys.argv[2], sys.argv[3], False)
if len(sys.argv) > 4:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]),) * 2)
try:
    print(data.locate(sys.argv[1]))
except FileNotFoundError as error:
    sys.exit(f"clear: {error}")
except KeyboardInterrupt:
    sys.exit("interrupted")
"""


def fetch(source, *options):
    command = [sys.executable, "-c", FETCH, NAME, source.url, source.sha256, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as Unix does")
def test_a_file_that_may_not_grow(remote):
    _, path, choose = remote
    _, err = fetch(choose("whole"), "1000").communicate()
    assert "clear:" in err and "File too large" in err and "Remedy" in err
    assert not list(path.parent.glob("*"))


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals as Unix does")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_download_is_no_file(remote, how):
    server, path, choose = remote
    process = fetch(choose("slow"))
    assert server.halfway.wait(120)
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode
    assert not path.exists()
    if how == signal.SIGINT:
        assert "interrupted" in err and not list(path.parent.glob("*"))
    choose("whole")
    assert data.locate(NAME).read_bytes() == CONTENT


def test_two_downloads_at_once_leave_one_whole_file(remote):
    _, path, choose = remote
    source = choose("whole")
    processes = [fetch(source) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == [str(path)] * 2
    assert path.read_bytes() == CONTENT and list(path.parent.glob("*")) == [path]


# ------------------------------------------------------------------------- python -m course_utils


def without_space(dir):
    return open("/dev/full", "wb", buffering=0)


def missing(*args, **kwargs):
    raise FileNotFoundError(errno.ENOENT, "gone", "constraints.txt")


def no_kernel(self, name):
    raise NoSuchKernel(name)


TROUBLES = {
    "disk full": (report.tempfile, "TemporaryFile", without_space, "writing", "No space left"),
    "no constraints": (Path, "read_text", missing, "packages", "constraints.txt"),
    "not installed": (
        *(report.metadata, "requires"),
        *(
            lambda name: (_ for _ in ()).throw(report.metadata.PackageNotFoundError(name)),
            "packages",
        ),
        "course-utils",
    ),
    "package unknown": (
        report.metadata,
        "requires",
        lambda name: ["numpy", "nixda"],
        "packages",
        "nixda",
    ),
    "cache in a file": (data, "cache_dir", lambda: Path("/dev/null"), "files", "not downloaded"),
    "data gone": (data, "DATA_DIR", Path("/nowhere"), "files", "is missing"),
    "no kernel": (KernelSpecManager, "get_kernel_spec", no_kernel, "kernel", "NoSuchKernel"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="names devices of Linux")
@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_is_one_line_with_a_remedy(trouble, capsys, monkeypatch):
    owner, name, value, check, words = TROUBLES[trouble]
    monkeypatch.setattr(report, "CHECKS", (getattr(report, check), report.python))
    monkeypatch.setattr(owner, name, value)
    status = report.main()
    monkeypatch.undo()
    out = capsys.readouterr().out
    assert words in out and "ok      Python 3" in out
    assert status == (trouble != "cache in a file") == ("remedy:" in out)


def test_time_is_not_wasted_by_importing_the_validators():
    code = "import sys, course_utils.validation as a; print('torch' in sys.modules, a.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False course_utils.validation\n"
