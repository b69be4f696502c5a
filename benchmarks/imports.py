"""What importing takes, against the three imports that nobody can do without.

`import aioencrypt` loads nothing before it is used: USED is what the first stream needs.
"""

from __future__ import annotations

import json
import subprocess
import sys

import plots
from common import Report, options

OURS, BASE = "import aioencrypt", "import anyio, attrs, cryptography.hazmat.primitives.ciphers.aead"
USED = "from aioencrypt import RawAESMasterKey, encrypt_stream"
PACKAGE = "aioencrypt"
_PROGRAM = """
import sys, time
before = set(sys.modules)
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
import json
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def imported(statement: str) -> tuple[float, list[str]]:
    """Import in a new interpreter; returns milliseconds, and the names of what was loaded."""
    command = [sys.executable, "-c", _PROGRAM.format(statement=statement)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, loaded = json.loads(output)
    return seconds * 1000, loaded


def main() -> None:
    """Run the program."""
    quick = options(__doc__).quick
    report = Report("imports", quick)
    loaded = {statement: imported(statement)[1] for statement in (OURS, USED, BASE)}
    packages = sorted({name.partition(".")[0] for name in loaded[USED]} - sys.stdlib_module_names)
    cell = report.cell(modules={name: len(names) for name, names in loaded.items()}, packages=packages)
    for _ in range(3 if quick else 25):
        cell.add({statement: imported(statement)[0] for statement in (OURS, USED, BASE)})
    rows = [(name, f"{cell.of(name):.0f}", len(loaded[name]), f"{cell.ratio(name, BASE)}") for name in loaded]
    headers = ("statement", "milliseconds", "modules", "of the three")
    report.table("Imports, each in a new interpreter:", headers, rows)
    own = sum(name.partition(".")[0] == PACKAGE for name in loaded[USED])
    report.say(
        f"\n{own} modules that the first stream needs are ours. Packages loaded: {', '.join(packages)}."
    )
    report.save()
    plots.imports(report)


if __name__ == "__main__":
    main()
