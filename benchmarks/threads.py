"""How threads should wait: training time with an idle and with a busy second core.

    python -m benchmarks.threads

Measures two kinds of training step, each in fresh processes: a wide network (784-400-784, batch
256, the size of the autoencoders) and a small one (11-50-1, batch 1,120, that of the wine network).
Settings alternate within each repetition. Fills benchmarks/THREADS.md.
"""

import itertools
import statistics

from benchmarks import measure, report
from tools.catalogue import table
from tools.marked import fill

PAGE = measure.HERE / "THREADS.md"
SETTINGS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads, default waiting": {"OMP_NUM_THREADS": "2"},
    "2 threads, passive waiting": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "2 threads, short spinning": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
}
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


def main() -> None:
    times: dict[tuple, dict[str, list[float]]] = {}
    cases = list(itertools.product(("wide", "small"), (False, True), SETTINGS))
    for network, busy, name in cases * measure.REPETITIONS:
        with measure.busy(busy):
            found = measure.run_alone("-c", STEP, network, **SETTINGS[name])
        times.setdefault((network, busy), {}).setdefault(name, []).append(found["seconds"])
    parts = {}
    for network in ("wide", "small"):
        rows = [[name] for name in SETTINGS]
        for busy, row in itertools.product((False, True), rows):
            medians = {name: statistics.median(v) for name, v in times[network, busy].items()}
            row += [report.spread(times[network, busy][row[0]])]
            row += [report.number(medians[row[0]] / min(medians.values()))]
        parts[network] = table(["", "idle", "ratio", "busy", "ratio"], rows)
    head = measure.origin(__spec__.name, ["torch"])
    made, torch = head["machine"], head["versions"]["torch"]
    parts["machine"] = (
        f"Measured on {head['date']}: {made['cores']} cores, {made['system']}, Python "
        f"{made['python']}, torch {torch}."
    )
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
