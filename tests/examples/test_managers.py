"""The programs in examples/ that are about managers run, as a reader would run them."""

from __future__ import annotations

from tests.support.examples import run


def test_required_context() -> None:
    lines = run("required_context.py").splitlines()
    assert lines[:3] == [
        "stored: ['kind']",
        "generate under clinic reports-2026",
        "encrypt under archive safe-1",
    ]
    assert lines[3] == (
        "refused, RequiredEncryptionContextError: "
        "the encryption context lacks the required keys 'patient'; give them as encryption_context"
    )
    assert lines[4].startswith("refused, ProviderError: none of the 2 encrypted data keys")
    assert "the header does not have the encryption context keys 'patient' that were given" in lines[4]
    assert lines[5:] == ["in good health, opened by archive safe-1"]
