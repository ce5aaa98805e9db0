"""How threads should wait: training time with an idle and with a busy second core.

    python -m benchmarks.threads

Measures two kinds of training step, each in fresh processes: a wide network (784-400-784, batch
256, the size of the autoencoders) and a small one (11-50-1, batch 1,120, that of the wine network).
Settings alternate within each repetition. Fills benchmarks/THREADS.md.
"""

import itertools
import statistics

from benchmarks import measure
from tools.catalogue import table
from tools.marked import fill

REPETITIONS = 5
PAGE = measure.HERE / "THREADS.md"
SETTINGS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads, default waiting": {"OMP_NUM_THREADS": "2"},
    "2 threads, passive waiting": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "2 threads, short spinning": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
}
NETWORKS = {"wide": "`var_mod`", "small": "the wine notebook and `flows`"}  # and whose size it is
STEP = """
import json, sys, time, torch
wide = sys.argv[1] == "wide"
sizes, n, steps = ((784, 400, 784), 256, 60) if wide else ((11, 50, 1), 1120, 500)
torch.manual_seed(0)
layers = [torch.nn.Linear(sizes[0], sizes[1]), torch.nn.ReLU(), torch.nn.Linear(*sizes[1:])]
net, x, y = torch.nn.Sequential(*layers), torch.rand(n, sizes[0]), torch.rand(n, sizes[2])
optimiser = torch.optim.Adam(net.parameters())
for step in range(steps + 20):
    if step == 20:
        start = time.perf_counter()
    optimiser.zero_grad()
    (net(x) - y).square().mean().backward()
    optimiser.step()
print(json.dumps({"seconds": time.perf_counter() - start}))
"""
Times = dict[tuple[str, bool, str], list[float]]  # seconds by network, busy core, setting


def measured() -> Times:
    """Time every training in processes of its own, beside a busy loop and alone."""
    times: Times = {}
    for _ in range(REPETITIONS):
        for network, busy, name in itertools.product(NETWORKS, (False, True), SETTINGS):
            with measure.busy(busy):
                found = measure.run_alone("-c", STEP, network, **SETTINGS[name])
            times.setdefault((network, busy, name), []).append(found["seconds"])
    return times


def ratio(times: Times, network: str, busy: bool, name: str) -> float:
    """A setting's median over that of the best setting of its column."""
    medians = {each: statistics.median(times[network, busy, each]) for each in SETTINGS}
    return medians[name] / min(medians.values())


def column(times: Times, network: str, busy: bool, name: str) -> list[str]:
    """Seconds and ratio of one setting."""
    values = times[network, busy, name]
    low, middle, high = min(values), statistics.median(values), max(values)
    seconds = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return [seconds, f"{ratio(times, network, busy, name):.2f}"]


def advice(times: Times, network: str) -> str:
    """Which of the course's two settings stays near the best."""
    worst = {
        name: max(ratio(times, network, busy, name) for busy in (False, True))
        for name in ("1 thread", "2 threads, passive waiting")
    }
    found = ", ".join(f"{name} {value:.2f}" for name, value in worst.items())
    best = min(worst, key=worst.__getitem__)
    return (
        f"The {network} network, size of {NETWORKS[network]}: at worst {found} times the best of "
        f"a column, so use {best}."
    )


def parts(times: Times, head: dict) -> dict[str, str]:
    """The generated parts of THREADS.md."""
    found = {
        network: table(
            ["", "idle", "ratio", "busy", "ratio"],
            [
                [name, *column(times, network, False, name), *column(times, network, True, name)]
                for name in SETTINGS
            ],
        )
        for network in NETWORKS
    }
    made = head["machine"]
    found["machine"] = (
        f"Measured on {head['date']}: {made['cores']} cores, {made['system']}, Python "
        f"{made['python']}, torch {head['versions']['torch']}."
    )
    found["advice"] = " ".join(advice(times, network) for network in NETWORKS)
    return found


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    filled = fill(page, parts(measured(), measure.origin(__spec__.name, ["torch"])))
    PAGE.write_text(filled, encoding="utf-8")
