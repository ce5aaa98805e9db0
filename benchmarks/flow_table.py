"""The table of section 7 of the notebook on flows: five seeds of every row, on the two moons.

    python -m benchmarks.flow_table    # writes benchmarks/flow_table.json; about 8 minutes

One thread. Each seed has its own training and validation points and first weights; the test points
are common to all. What the same functions of the notebook have fitted with the same settings is
kept, so the script can be interrupted.
"""

import ast
import hashlib
import time

import torch
from sklearn.mixture import GaussianMixture

from benchmarks import measure
from tools import catalogue
from tools.notebook_definitions import definitions

BOOK = catalogue.find("flows")
nb = definitions(BOOK.file)
GLOBALS = nb.fit_flow.__globals__
GLOBALS["device"] = torch.device("cpu")  # the notebook sets it in a cell
SEEDS, NUMBERS = range(5), (8, 16, 24, 32, 40)  # of Gaussians, to choose from
EQUAL = {"components": 1, "steps": 1500, "batch": 512}
FLOWS = {  # by row: layers, and what fit_flow is called with; chosen on the seeds 10 to 12
    "RealNVP by hand": (8, {"kind": "realnvp"} | EQUAL),
    "masked autoregressive": (8, {"kind": "maf"} | EQUAL),
    "spline": (2, {"kind": "spline"} | EQUAL),
    "spline, larger batch": (2, {"kind": "spline", "components": 1, "steps": 800, "batch": 1024}),
    "spline, mixture base": (2, {"kind": "spline"} | EQUAL | {"components": 24}),
    "RealNVP, trained longer": (
        8,
        {"kind": "realnvp", "components": 1, "steps": 2500, "batch": 1024},
    ),
    "RealNVP, mixture base": (
        8,
        {"kind": "realnvp", "components": 24, "steps": 2000, "batch": 512},
    ),
}
CODE = (  # what of the notebook is measured
    "steering_network Coupling Chain realnvp GaussianBase Flow build_flow train_step jittered "
    "batches mean_nll steps_taken fit_flow Masked Autoregressive maf Spline Mixture start_mixture"
).split()
GAUSSIANS = {"one Gaussian": (1,), "mixture of Gaussians": NUMBERS}


def digest() -> str:
    """Of those definitions, whatever their comments."""
    nodes = ast.parse(BOOK.source.read_text(encoding="utf-8")).body
    code = [ast.dump(node) for node in nodes if getattr(node, "name", None) in CODE]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:12]


def points(seed: int, n_train: int = nb.N_TRAIN) -> tuple[torch.Tensor, torch.Tensor]:
    return nb.draw_moons(100 + seed, n_train), nb.draw_moons(200 + seed, nb.N_TEST // 5)


def gaps(score, x_test: torch.Tensor, x_train: torch.Tensor) -> dict[str, float]:
    """Paired, in nats. The difference of the two is about (parameters that matter) / n."""
    both = {"gap": x_test, "gap_train": x_train}
    return {k: (nb.true_log_prob(x) - score(x)).double().mean().item() for k, x in both.items()}


def fitted_gaussians(numbers: tuple, seed: int, x_test: torch.Tensor) -> dict:
    """Full covariances; of several numbers of parts the one that scores validation points best."""
    (train, val), start = points(seed), time.process_time()
    models = [GaussianMixture(k, random_state=seed).fit(train.numpy()) for k in numbers]
    best = max(models, key=lambda model: model.score(val.numpy()))
    seconds = time.process_time() - start
    found = gaps(lambda x: torch.as_tensor(best.score_samples(x.numpy())), x_test, train)
    parts = best.n_components
    return {"seconds": seconds, "parts": parts, "parameters": 6 * parts - 1} | found


def fitted_flow(settings: dict, seed: int, x_test: torch.Tensor) -> dict:
    """A flow of the notebook; its inverse over its forward time, on the test points."""
    (train, val), start = points(seed), time.process_time()
    flow = nb.fit_flow(train, val, seed=seed, **settings)
    seconds = time.process_time() - start
    z, _ = flow.f((x_test - flow.shift) / flow.scale)
    clocks = [lambda f=f: measure.seconds(lambda: f(z.clone())) for f in (flow.f.inverse, flow.f)]
    inverse, forward = measure.medians(*clocks)
    count = sum(p.numel() for p in flow.parameters())
    found = {"seconds": seconds, "inverse": inverse / forward, "parameters": count}
    return found | gaps(flow.log_prob, x_test, train) | {"skipped": flow.skipped}


def fitted(row: str, seed: int, x_test: torch.Tensor) -> dict:
    if row in GAUSSIANS:
        found = fitted_gaussians(GAUSSIANS[row], seed, x_test)
    else:
        found = fitted_flow(FLOWS[row][1], seed, x_test)
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    x_test, path = nb.draw_moons(300, nb.N_TEST), measure.place("flow_table")
    settings = {name: {"layers": layers} | given for name, (layers, given) in FLOWS.items()}
    settings |= {name: {"numbers": list(numbers)} for name, numbers in GAUSSIANS.items()}
    runs, code = {name: {} for name in (*GAUSSIANS, *FLOWS)}, digest()
    if path.exists() and (old := measure.load("flow_table"))["code"] == code:
        kept = {name: run for name, run in old["runs"].items() if name in runs}
        runs |= {n: run for n, run in kept.items() if old["settings"][n] == settings[n]}
    for seed in SEEDS:
        for row, done in runs.items():
            if str(seed) not in done:
                done[str(seed)] = fitted(row, seed, x_test)
                print(row, seed, done[str(seed)], flush=True)
                stored = measure.origin(
                    __spec__.name, ["torch", "pyro-ppl", "zuko", "scikit-learn"]
                )
                measure.write(path, stored | {"code": code, "settings": settings, "runs": runs})


if __name__ == "__main__":
    main()
