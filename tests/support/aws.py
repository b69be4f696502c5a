"""What the tests of clients made with aiobotocore share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiobotocore.session import get_session

from aioencrypt import AWSConnection, KMSMasterKeyProvider, Provider, encrypt
from tests.support.kms import SUITE


class WatchedSession:
    """A session of aiobotocore that notes the regions of the clients it makes."""

    def __init__(self) -> None:
        self.session = get_session()
        self.regions: list[str | None] = []

    def create_client(self, service: str, **options: Any) -> Any:
        self.regions.append(options["region_name"])
        return self.session.create_client(service, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def connected(options: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """Return the options of a provider; those of a connection, and some more, go into a connection."""
    names = {"kms", "clients", "dynamodb", "session", "profile", "client_config", "timeout", *more}
    connection = {
        "kms" if name == "clients" else name: value for name, value in options.items() if name in names
    }
    rest = {name: value for name, value in options.items() if name not in names}
    return {"connection": AWSConnection(**connection), **rest} if connection else rest


def strict(*key_ids: str, **options: Any) -> KMSMasterKeyProvider:
    return KMSMasterKeyProvider(key_ids, **connected(options))


async def sealed(provider: Provider) -> bytes:
    """Return a message, without the time that a signature takes."""
    return (await encrypt(b"x", provider, algorithm_suite=SUITE)).ciphertext


def run_script(script: str, *arguments: str) -> list[str]:
    """Run a program in another process and return the lines of its output."""
    root = Path(__file__).parent.parent.parent
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "ResourceWarning" not in result.stderr
    return result.stdout.splitlines()
