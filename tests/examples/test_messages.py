"""The programs in examples/ that read, inspect and rewrap messages."""

from __future__ import annotations

import re

from tests.support.examples import run


def test_read_at_random() -> None:
    lines = run("read_at_random.py").splitlines()
    assert lines[:3] == [f"record {number} of 100000" for number in (7, 77_777, 99_999)]
    assert lines[3].startswith("100,000 records, 6,4")
    [fetched] = re.findall(r"^([\d,]+) bytes fetched$", lines[4])
    # Header, final frame, and a frame of 4 KiB for each record that is not in one of them.
    assert int(fetched.replace(",", "")) < 20_000


def test_rewrap_files() -> None:
    assert run("rewrap_files.py").splitlines() == [
        "damaged.aws    16 bytes under key-2026",
        "signed.aws     14 bytes under key-2026",
        "unsigned.aws   16 bytes under key-2026",
        "damaged.aws is left as it was: "
        "the final frame 1 fails authentication: it was changed, or is out of place",
        "damaged.aws    16 bytes under key-2026",
        "signed.aws     14 bytes under key-2027",
        "unsigned.aws   16 bytes under key-2027",
    ]


def test_receive_pushed() -> None:
    lines = run("receive_pushed.py").splitlines()
    assert lines[0] == "1,800,000 bytes received and verified"
    assert lines[1].startswith("TruncatedMessageError: ")
