"""How threads should wait: training time with an idle and with a busy second core.

    python benchmarks/threads.py

Measures two kinds of training step, each in fresh processes: a wide network (784-400-784, batch
256, the size of the autoencoders) and a small one (11-50-1, batch 1,120, that of the wine network).
Settings alternate within each repetition. Writes benchmarks/THREADS.md.
"""

import os
import platform
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

REPETITIONS = 5
SETTINGS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "2 threads, default waiting": {"OMP_NUM_THREADS": "2"},
    "2 threads, passive waiting": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "2 threads, short spinning": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "10000"},
}
STEP = """
import sys, time, torch
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
print(time.perf_counter() - start)
"""
BUSY = "while True: pass"


def seconds(network: str, setting: dict, busy: bool) -> float:
    """Time one training in a process of its own, beside a busy loop or alone."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "MKL_"))}
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        command = [sys.executable, "-c", STEP, network]
        out = subprocess.run(
            command, env=env | setting, capture_output=True, text=True, check=True
        ).stdout
    finally:
        if other:
            other.kill()
            other.wait()
    return float(out)


def verdict(times: dict[tuple, list[float]]) -> str:
    """One sentence per network: which of the course's two settings stays near the best."""
    medians = {key: statistics.median(values) for key, values in times.items()}
    sentences = ["The course waits passively (`course_utils/__init__.py`)."]
    for network, notebooks in (("wide", "`var_mod`"), ("small", "the wine notebook and `flows`")):
        worst = {}
        for name in ("1 thread", "2 threads, passive waiting"):
            worst[name] = max(
                medians[network, busy, name]
                / min(medians[network, busy, other] for other in SETTINGS)
                for busy in (False, True)
            )
        best = min(worst, key=worst.__getitem__)
        others = ", ".join(f"{name} {ratio:.2f}" for name, ratio in worst.items())
        sentences.append(
            f"The {network} network, size of {notebooks}: at worst {others} times the best of a "
            f"column, so use {best}."
        )
    return " ".join(sentences)


def main() -> None:
    import torch

    times: dict[tuple, list[float]] = {}
    for _ in range(REPETITIONS):
        for network in ("wide", "small"):
            for busy in (False, True):
                for name, setting in SETTINGS.items():
                    key = (network, busy, name)
                    times.setdefault(key, []).append(seconds(network, setting, busy))
    lines = [
        "# How threads should wait",
        "",
        f"Measured by `python benchmarks/threads.py` on {date.today()}: {os.cpu_count()} cores, "
        f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}. "
        f"Seconds, median of {REPETITIONS} (smallest to largest); the ratio is to the best setting "
        "of the column. *Busy*: another process keeps one core busy.",
        "",
    ]
    for network, text in (("wide", "784–400–784, batch 256"), ("small", "11–50–1, batch 1,120")):
        lines += [
            f"## {text}",
            "",
            "| | idle | ratio | busy | ratio |",
            "| --- | --- | --- | --- | --- |",
        ]
        medians = {
            (busy, name): statistics.median(times[network, busy, name])
            for busy in (False, True)
            for name in SETTINGS
        }
        for name in SETTINGS:
            row = f"| {name} "
            for busy in (False, True):
                values = times[network, busy, name]
                best = min(medians[busy, other] for other in SETTINGS)
                median = medians[busy, name]
                row += f"| {median:.2f} ({min(values):.2f} to {max(values):.2f}) "
                row += f"| {median / best:.2f} "
            lines.append(row + "|")
        lines.append("")
    lines.append(verdict(times))
    (Path(__file__).parent / "THREADS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
