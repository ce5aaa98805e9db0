"""How threads should wait: training time with an idle and with a busy second core.

    python -m benchmarks.threads

Measures two kinds of training step, each in fresh processes: a wide network (784-400-784, batch
256, the size of the autoencoders) and a small one (11-50-1, batch 1,120, that of the wine network).
Settings alternate within each repetition. Fills benchmarks/THREADS.md.
"""

import itertools
import json
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
NETWORKS = {"wide": ((784, 400, 784), 256, 60), "small": ((11, 50, 1), 1120, 500)}
STEP = """
import json, sys, time, torch
(d, hidden, out), n, steps = json.loads(sys.argv[1])
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(d, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, out))
x, y, optimiser = torch.rand(n, d), torch.rand(n, out), torch.optim.Adam(net.parameters())
for step in range(steps + 20):
    if step == 20:
        start = time.perf_counter()
    optimiser.zero_grad()
    (net(x) - y).square().mean().backward()
    optimiser.step()
print(json.dumps({"seconds": time.perf_counter() - start}))
"""


def main() -> None:
    times: dict[tuple, list[float]] = {}
    cases = list(itertools.product(NETWORKS, SETTINGS, (False, True)))
    for network, name, busy in cases * measure.REPETITIONS:
        with measure.busy(busy):
            size = json.dumps(NETWORKS[network])
            found = measure.run_alone("-c", STEP, size, **SETTINGS[name])
        times.setdefault((network, busy, name), []).append(found["seconds"])
    parts = {}
    for network in NETWORKS:
        rows = [[name] for name in SETTINGS]
        for busy, row in itertools.product((False, True), rows):
            best = min(statistics.median(times[network, busy, name]) for name in SETTINGS)
            own = times[network, busy, row[0]]
            row += [report.spread(own), report.number(statistics.median(own) / best)]
        parts[network] = table(["", "idle", "ratio", "busy", "ratio"], rows)
    head = measure.origin(__spec__.name, ["torch"])
    parts["machine"] = f"Measured on {head['date']}: {report.machine(head)}."
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), parts), encoding="utf-8")


if __name__ == "__main__":
    main()
