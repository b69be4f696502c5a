"""The pytest plugin as users have it: in a folder of their own, with nothing but the package installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from aioencrypt import KMSMasterKeyProvider, decrypt, encrypt
from aioencrypt.branch_keys import BranchKeyStore, HierarchicalMasterKey
from aioencrypt.testing import InMemoryDynamoDB, InMemoryKMS, plugin

pytestmark = pytest.mark.anyio


def run(folder: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a test file of a user, who has not set up pytest-asyncio."""
    (folder / "test_users_own.py").write_text(source)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


def passes(folder: Path, source: str, tests: int, *arguments: str) -> None:
    result = run(folder, source, *arguments)
    assert f"{tests} passed" in result.stdout, result.stdout + result.stderr
    assert result.returncode == 0


def test_pytest_finds_it_by_its_entry_point() -> None:
    [entry] = entry_points(group="pytest11", name="aioencrypt")
    assert entry.load() is plugin


# The fixtures


async def test_a_provider_over_a_kms_in_memory(
    aioencrypt_provider: KMSMasterKeyProvider, aioencrypt_kms: InMemoryKMS
) -> None:
    message, header = await encrypt(b"attack at dawn", aioencrypt_provider)
    assert (await decrypt(message, aioencrypt_provider)).plaintext == b"attack at dawn"
    assert [call.operation for call in aioencrypt_kms.calls] == ["GenerateDataKey", "Decrypt"]
    [encrypted] = header.encrypted_data_keys
    assert encrypted.provider_info.startswith(b"arn:aws:kms:us-east-1:")


async def test_a_branch_key_store_over_both_services_in_memory(
    aioencrypt_key_store: BranchKeyStore, aioencrypt_dynamodb: InMemoryDynamoDB
) -> None:
    await aioencrypt_key_store.create_key_store()
    branch_key_id = await aioencrypt_key_store.create_key()
    key = HierarchicalMasterKey(aioencrypt_key_store, branch_key_id=branch_key_id, max_age=60)
    async with key:
        message, _ = await encrypt(b"attack at dawn", key)
        assert (await decrypt(message, key)).plaintext == b"attack at dawn"
    assert {item["branch-key-id"]["S"] for item in aioencrypt_dynamodb.items("branch-keys")} == {
        branch_key_id
    }


def test_each_test_has_aws_for_itself(tmp_path: Path) -> None:
    source = """
import pytest

seen = []

@pytest.mark.parametrize("time", range(2))
def test_new(aioencrypt_kms, aioencrypt_provider, aioencrypt_dynamodb, aioencrypt_key_store, time):
    seen.append((aioencrypt_kms, aioencrypt_provider, aioencrypt_dynamodb, aioencrypt_key_store))
    assert [len(set(map(id, kind))) for kind in zip(*seen)] == [time + 1] * 4
    assert not aioencrypt_kms.calls
    assert not aioencrypt_dynamodb.calls
"""
    passes(tmp_path, source, 2)


def test_users_replace_what_does_not_suit_them(tmp_path: Path) -> None:
    source = """
import pytest
from aioencrypt import KMSMasterKeyProvider, ProviderError, encrypt, decrypt

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
def aioencrypt_provider(aioencrypt_kms):
    regions = ["us-east-1", "eu-west-1"]
    keys = [aioencrypt_kms.create_key(region=region) for region in regions]
    return KMSMasterKeyProvider(keys, connection=aioencrypt_kms.connection(*regions))

@pytest.mark.anyio
async def test_two_regions(aioencrypt_kms, aioencrypt_provider):
    message, header = await encrypt(b"x", aioencrypt_provider)
    assert len(header.encrypted_data_keys) == 2
    aioencrypt_kms.outage("us-east-1")
    assert (await decrypt(message, aioencrypt_provider)).plaintext == b"x"
    with pytest.raises(ProviderError):
        await encrypt(b"x", aioencrypt_provider)
"""
    passes(tmp_path, source, 1)


def test_the_fixtures_say_what_they_are(tmp_path: Path) -> None:
    output = run(tmp_path, "", "--fixtures").stdout
    fixtures = [name for name in vars(plugin) if name.startswith("aioencrypt_")]
    assert fixtures
    for name in fixtures:
        _, _, after = output.partition(f"{name} -- ")
        assert after.splitlines()[1].strip(), name


# What it costs everybody else


def test_it_imports_nothing_before_a_fixture_is_used(tmp_path: Path) -> None:
    source = """
import sys

def loaded(*names):
    return {module.partition(".")[0] for module in sys.modules} & set(names)

def test_nothing_is_loaded():
    ours = {module for module in sys.modules if module.startswith("aioencrypt")}
    assert ours == {"aioencrypt", "aioencrypt.testing", "aioencrypt.testing.plugin"}
    assert not loaded("cryptography", "aiohttp", "aiobotocore", "botocore")

def test_nothing_optional_is_loaded_afterwards(aioencrypt_provider, aioencrypt_key_store):
    assert not loaded("aiohttp", "aiobotocore", "botocore")
"""
    passes(tmp_path, source, 2)


def test_it_can_be_left_out(tmp_path: Path) -> None:
    source = "def test_x(aioencrypt_kms): pass\n"
    passes(tmp_path, source, 1)
    without = run(tmp_path, source, "-p", "no:aioencrypt")
    assert "fixture 'aioencrypt_kms' not found" in without.stdout
    assert without.returncode == 1
