"""The program in examples/ that writes into S3 does what it says."""

from __future__ import annotations

import re

from tests.support.examples import run


def test_s3_upload_and_read() -> None:
    lines = run("s3_upload_and_read.py", "--size", "20").splitlines()
    assert re.fullmatch(r"written: 20,98\d,\d{3} bytes in 3 part\(s\)", lines[0])
    assert lines[1:] == [
        "read:    the same again",
        "read:    eight bytes of the 20 MiB",
        "broken:  the sender hung up; 0 uploads are left",
    ]
