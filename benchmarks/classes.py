"""What a class of any size needs, from the rehearsal and from whole runs of the notebooks."""

import math
from statistics import median

from benchmarks import measure
from benchmarks.report import number, origin
from tools.catalogue import table

SIZES = (30, 300, 3000)
WAIT = 60  # seconds that a class may wait when all run sections 1 to 3 at once
SYSTEM_GB = 2  # operating system, Hub and proxy
GUARANTEE_GB = 2 * 2**30 / 1e9  # of each student on Kubernetes


def load_peaks() -> dict[str, float]:
    """Per notebook the largest resident memory (MB) of its kernel in all stored whole runs."""
    peaks: dict[str, float] = {}
    for run in measure.load("seeds")["runs"]:
        peak = run.get("peak_memory_mb", 0)  # none where the run failed
        peaks[run["notebook"]] = max(peaks.get(run["notebook"], 0), peak)
    return peaks


def needs(students: list[dict], peaks: dict[str, float], *, kernels: int, shared: bool) -> dict:
    """Needs of one student, who has so many notebooks open: those with the largest peaks (MB).

    Pages that students share are counted once for all where they are ``shared``, as on one machine;
    in containers each needs all resident pages.

    Returns:
        Memory; processor seconds to arrive (login, server, pull) and for the lesson; seconds that
        the Hub needs for one login.
    """
    found = {name: median(each[name] for each in students) for name in students[0]}
    common = found["kernel_rss"] - found["kernel_mb"] if shared else 0
    memory = found["server_mb" if shared else "server_rss"]
    memory += sum(peak - common for peak in sorted(peaks.values())[-kernels:])
    return {
        "memory_gb": memory / 1000,
        "arrival_seconds": found["server_cpu"],
        "lesson_seconds": found["kernel_cpu"],
        "login_seconds": max(each["login"] for each in students) / len(students),
    }


def plan(students: int, one: dict) -> dict[str, float]:
    """What so many students need; the names are those of the page."""
    cores = max(2, math.ceil(students * one["lesson_seconds"] / WAIT))
    # Cores share the work, but one Hub logs everybody in.
    arrival = max(students * one["arrival_seconds"] / cores, students * one["login_seconds"])
    return {
        "memory of one machine (GB)": students * one["memory_gb"] + SYSTEM_GB,
        "memory guaranteed on Kubernetes (GB)": students * GUARANTEE_GB,
        "cores": cores,
        "seconds until all have a server, if all arrive at once": arrival,
    }


def page() -> dict[str, str]:
    """The generated parts of docs/classes.md."""
    many, peaks = measure.load("classroom")["class"], load_peaks()
    one, apart = (needs(many, peaks, kernels=2, shared=shared) for shared in (True, False))
    plans = [plan(size, one) for size in SIZES]
    student = [[name.replace("_", " "), number(one[name]), number(apart[name])] for name in one]
    rows = [[name, *(f"{each[name]:,.0f}" for each in plans)] for name in plans[0]]
    return {
        "student": table(["one student", "on a shared machine", "in a container"], student),
        "needs": table(["students", *(f"{size:,}" for size in SIZES)], rows),
        "peaks": table([*peaks], [[f"{peak:,.0f} MB" for peak in peaks.values()]]),
    }


def rehearsal() -> dict[str, str]:
    """The generated parts of CLASSROOM.md."""
    stored = measure.load("classroom")
    alone, many = stored["alone"], stored["class"]
    rows = []
    for name in alone:
        values = [each[name] for each in many]
        spread = f"{number(median(values))} ({number(max(values))})"
        rows.append([name.replace("_", " "), number(alone[name]), spread])
    load = f"Load average before the start: {stored['load']:.2g}."
    return {
        "machine": f"Measured on {origin(stored)}. {load} {stored['note']}".strip(),
        "students": table(["", "one student", f"{len(many)} students"], rows),
    }
