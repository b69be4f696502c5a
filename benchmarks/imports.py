"""What `import aioencrypt` takes, against the three imports that it cannot do without."""

from __future__ import annotations

import json
import subprocess
import sys

import plots
from common import Report, options

OURS, BASE = "aioencrypt", "anyio, attrs, cryptography.hazmat.primitives.ciphers.aead"
_PROGRAM = """
import sys, time
before = set(sys.modules)
start = time.perf_counter()
import {modules}
seconds = time.perf_counter() - start
import json
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def imported(modules: str) -> tuple[float, list[str]]:
    """Import in a new interpreter; returns milliseconds, and the names of what was loaded."""
    command = [sys.executable, "-c", _PROGRAM.format(modules=modules)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, loaded = json.loads(output)
    return seconds * 1000, loaded


def main() -> None:
    """Run the program."""
    quick = options(__doc__).quick
    report = Report("imports", quick)
    loaded = {modules: imported(modules)[1] for modules in (OURS, BASE)}
    packages = sorted({name.partition(".")[0] for name in loaded[OURS]} - sys.stdlib_module_names)
    cell = report.cell(modules={name: len(names) for name, names in loaded.items()}, packages=packages)
    for _ in range(3 if quick else 25):
        cell.add({modules: imported(modules)[0] for modules in (OURS, BASE)})
    rows = [(name, f"{cell.of(name):.0f}", len(loaded[name]), f"{cell.ratio(name, BASE)}") for name in loaded]
    headers = ("import", "milliseconds", "modules", "of the three")
    report.table("Imports, each in a new interpreter:", headers, rows)
    own = sum(name.partition(".")[0] == OURS for name in loaded[OURS])
    report.say(f"\n{own} modules are ours. Packages loaded: {', '.join(packages)}.")
    report.save()
    plots.imports(report)


if __name__ == "__main__":
    main()
