"""What the programs share: rounds of measurements, controls, tables, results as JSON."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

RESULTS = Path(__file__).parent / "results"
KIB, MIB, GIB = 1024, 1024**2, 1024**3
TICK = 0.001
SCALING = "sha384 on two threads / one"
COPY = "memory copy, GB/s"
IDLE = ("idle p50, ms", "idle p99, ms", "idle p99.9, ms", "idle max, ms")
# Below this the second core is not ours, and a digest cannot run beside anything.
QUIET_SCALING = 1.7
_PACKAGES = (
    "aioencrypt", "cryptography", "anyio", "aiobotocore", "aws-encryption-sdk",
    "aws-cryptographic-material-providers", "pyrage", "tink",
)  # fmt: skip


@attrs.frozen
class Spread:
    """The median of some samples, and their quartiles."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        spec = spec or ".2f"
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def spread(samples: Sequence[float]) -> Spread:
    """Return median and quartiles."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def percentile(samples: Iterable[float], share: float) -> float:
    """Return the smallest sample that is not below this share of them."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@attrs.frozen
class Cell:
    """What was measured together: for each contestant one sample a round, on the same data."""

    labels: dict[str, Any]
    samples: dict[str, list[float]] = attrs.field(factory=dict)

    def add(self, figures: Mapping[str, float]) -> None:
        """Add the figures of a round."""
        for name, figure in figures.items():
            self.samples.setdefault(name, []).append(figure)

    def of(self, name: str) -> Spread:
        """Return median and quartiles of a contestant."""
        return spread(self.samples[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Return median and quartiles of one contestant over another, each round by itself."""
        pairs = zip(self.samples[name], self.samples[base], strict=True)
        return spread([sample / other for sample, other in pairs])

    def matches(self, **labels: Any) -> bool:
        """Tell whether the cell has these labels."""
        return all(self.labels.get(name) == value for name, value in labels.items())


def one_round(contestants: Mapping[str, Callable[[], float]], number: int) -> dict[str, float]:
    """Measure each contestant once; each round begins with another one."""
    names = list(contestants)
    first = number % len(names)
    gc.collect()
    return {name: contestants[name]() for name in names[first:] + names[:first]}


def seconds(function: Callable[[], object]) -> float:
    """Return what a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


async def ticks(count: int, at_most: float = float("inf")) -> list[float]:
    """Return how late each of `count` timers of a millisecond fired, in milliseconds."""
    delays: list[float] = []
    end = time.perf_counter() + at_most
    while len(delays) < count and time.perf_counter() < end:
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        delays.append((time.perf_counter() - due) * 1000)
    return delays


def thread_scaling() -> float:
    """Return the rate of two threads with SHA-384 over that of one: 2.0 with two free cores."""
    data = bytes(16 * MIB)
    alone = seconds(lambda: hashlib.sha384(data))
    threads = [threading.Thread(target=hashlib.sha384, args=(data,)) for _ in range(2)]

    def both() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return 2 * alone / seconds(both)


def copy_rate() -> float:
    """Return how fast memory is copied, in GB/s."""
    source, target = bytes(64 * MIB), memoryview(bytearray(64 * MIB))

    def copy() -> None:
        target[:] = source

    return len(source) / seconds(copy) / 1e9


def peak_memory() -> int:
    """Return the most bytes that this process has had in memory."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * KIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else KIB)


def start_peak_again() -> None:
    """Let the peak of memory start again from here, where the system can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Report:
    """One run of a program: what it measures, prints and writes under `results/`."""

    def __init__(self, program: str, quick: bool) -> None:
        self.program = program
        self.quick = quick
        self.started = datetime.datetime.now().isoformat(timespec="seconds")
        self.cells: list[Cell] = []
        self.controls = Cell({"what": "controls"})
        self.missing: list[str] = []
        self._printed: list[str] = []
        self.say(f"# {program}{' (quick: the figures mean nothing)' if quick else ''}\n\n{machine()}\n")
        self.measure_controls()

    def cell(self, **labels: Any) -> Cell:
        """Return a new cell."""
        self.cells.append(Cell(labels))
        return self.cells[-1]

    def measure_controls(self) -> None:
        """Take the controls; at the beginning, in between and at the end."""
        delays = asyncio.run(ticks(100 if self.quick else 1000))
        shares = (0.5, 0.99, 0.999, 1.0)
        idle = {name: percentile(delays, share) for name, share in zip(IDLE, shares, strict=True)}
        self.controls.add({SCALING: thread_scaling(), COPY: copy_rate(), **idle})

    def say(self, text: str) -> None:
        """Print a text, and keep it."""
        print(text, flush=True)
        self._printed.append(text)

    def table(self, title: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table, and keep it."""
        self.say(f"\n{title}\n\n{table(headers, rows)}")

    def save(self) -> None:
        """Print the controls, and write everything under `results/`."""
        self.measure_controls()
        rows = [(name, f"{self.controls.of(name)}") for name in self.controls.samples]
        self.table("Controls, median and quartiles:", ("control", "value"), rows)
        if self.missing:
            self.say(f"\nNot installed: {', '.join(self.missing)}.")
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{self.program}.md").write_text("\n".join(self._printed) + "\n")
        content = {
            "program": self.program,
            "quick": self.quick,
            "started": self.started,
            "machine": machine(),
            "missing": self.missing,
            "controls": self.controls.samples,
            "cells": [attrs.asdict(cell) for cell in self.cells],
        }
        (RESULTS / f"{self.program}.json").write_text(json.dumps(content, indent=1))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def size(length: int) -> str:
    """Return a length as people write it."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if length >= unit and length % unit == 0:
            return f"{length // unit} {name}"
    return f"{length} B"


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Return processor, system and versions in a line."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES if _installed(name)]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{_processor()}, {cores()} cores; {platform.platform()}; {python}; {', '.join(versions)}"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def options(description: str | None) -> argparse.Namespace:
    """Read the command line: each program has `--quick`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    return parser.parse_args()
