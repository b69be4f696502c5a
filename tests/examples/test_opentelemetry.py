"""The program in examples/ that is about OpenTelemetry runs, as a reader would run it."""

from __future__ import annotations

import re

from tests.support.examples import run


def test_opentelemetry_traces() -> None:
    lines = run("opentelemetry_traces.py").splitlines()
    assert lines[:11] == [
        "refused after 2 attempts",
        "",
        "POST /reports:",
        "  aioencrypt.encrypt: 1114112 complete",
        "    KMS.GenerateDataKey: us-east-1",
        "    KMS.Encrypt: eu-west-1",
        "GET /reports:",
        "  aioencrypt.decrypt: 0 failed aioencrypt.errors.ProviderError",
        "    KMS.Decrypt: us-east-1 DisabledException",
        "    KMS.Decrypt: eu-west-1 DisabledException",
        "",
    ]
    metrics = dict(line.split(": ") for line in lines[11:])
    seconds = [metrics.pop(name) for name in ("rpc.client.call.duration", "aioencrypt.message.duration")]
    assert all(re.fullmatch(r"\d\.\d\d s", figure) and float(figure[:-2]) >= 0.12 for figure in seconds)
    assert metrics == {
        "aioencrypt.message.plaintext.size": "1,114,162 By",
        "aioencrypt.message.ciphertext.size": metrics["aioencrypt.message.ciphertext.size"],
        "aioencrypt.message.frames": "283 {frame}",
        "aioencrypt.cache.answers": "10 {answer}",
    }
    assert re.fullmatch(r"1,1\d\d,\d\d\d By", metrics["aioencrypt.message.ciphertext.size"])
