"""The program in examples/ that is about caching runs, as a reader would run it."""

from __future__ import annotations

import re

from tests.support.examples import run


def test_cache_data_keys() -> None:
    lines = run("cache_data_keys.py").splitlines()
    assert re.fullmatch(r"without a cache: 200 calls, \d\.\d\d s", lines[0])
    # 100 messages of each of two tenants, at most 50 under a data key
    assert re.fullmatch(r"with a cache: 4 calls, \d\.\d\d s", lines[1])
    assert lines[2:] == [
        "b'order 0' to b'order 199': 4 calls to read them",
        "CacheStatistics(hits=392, misses=8, refreshes=0, evictions=0, size=6)",
        "the key is disabled, and the data key in the cache is not",
        "after the end: 0 data keys",
    ]
