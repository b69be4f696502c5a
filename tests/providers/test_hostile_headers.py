"""Headers with thousands of encrypted data keys and pairs: what one costs, and that the loop goes on."""

from __future__ import annotations

import tracemalloc
import uuid
from collections.abc import Callable, Iterable, Mapping

import anyio
import pytest
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives.asymmetric import ec

from aioencrypt import MultiMasterKeyProvider, ProviderError, RawAESMasterKey, RawECDHMasterKey
from aioencrypt.branch_keys import HierarchicalMasterKey
from aioencrypt.format.context import serialize_context
from aioencrypt.materials import EncryptedDataKey, MasterKey
from aioencrypt.providers.branch_keys.items import BranchKeyMaterials
from aioencrypt.providers.key_agreement import public_key_of
from tests.support.providers import asking

pytestmark = pytest.mark.anyio

VERSION = uuid.uuid4()


class _Store:
    logical_name = "store"

    async def active_branch_key(self, branch_key_id: str) -> BranchKeyMaterials:
        return BranchKeyMaterials(branch_key_id, str(VERSION), {}, bytes(32))

    async def branch_key_version(self, branch_key_id: str, version: str) -> BranchKeyMaterials:
        return BranchKeyMaterials(branch_key_id, version, {}, bytes(32))


def _raw_aes() -> tuple[MasterKey, EncryptedDataKey]:
    info = b"name" + bytes([0, 0, 0, 128, 0, 0, 0, 12]) + bytes(12)
    return RawAESMasterKey("mine", "name", wrapping_key=bytes(32)), EncryptedDataKey("mine", info, bytes(48))


def _hierarchical() -> tuple[MasterKey, EncryptedDataKey]:
    key = HierarchicalMasterKey(_Store(), branch_key_id="id", max_age=60)
    return key, EncryptedDataKey("aws-kms-hierarchy", b"id", bytes(28) + VERSION.bytes + bytes(48))


def _ecdh() -> tuple[MasterKey, EncryptedDataKey]:
    private = ec.generate_private_key(ec.SECP256R1())
    point = public_key_of(private, "private_key").point
    info = b"\1" + (bytes([0, 0, 0, 33]) + point) * 2
    return RawECDHMasterKey.discovery(private_key=private), EncryptedDataKey("raw-ecdh", info, bytes(112))


each_key = pytest.mark.parametrize("make", [_raw_aes, _hierarchical, _ecdh])


@each_key
async def test_a_context_is_serialized_once_for_all_data_keys_of_a_header(
    make: Callable[[], tuple[MasterKey, EncryptedDataKey]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 data keys beside 8,000 pairs took minutes, and the loop for seconds at a time."""
    calls = []

    def counting(context: Mapping[str, str], order: Iterable[str] | None = None) -> bytes:
        calls.append(context)
        return serialize_context(context, order)

    monkeypatch.setattr("aioencrypt.format.context.serialize_context", counting)
    monkeypatch.setattr("aioencrypt.providers.values.serialize_context", counting)
    key, encrypted = make()
    with pytest.raises(ProviderError) as caught:
        await key.decrypt_data_key(asking(*[encrypted] * 100))
    assert len(caught.value.attempts) + caught.value.omitted == 100
    # once as the specification says; raw AES in three other ways at most, and once more to compare
    assert 1 <= len(calls) <= (5 if make is _raw_aes else 1)


@each_key
async def test_the_loop_goes_on_after_each_attempt_that_fails(
    make: Callable[[], tuple[MasterKey, EncryptedDataKey]],
) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    key, encrypted = make()
    async with anyio.create_task_group() as group:
        group.start_soon(count)
        await checkpoint()
        turns = 0
        with pytest.raises(ProviderError) as caught:
            await key.decrypt_data_key(asking(*[encrypted] * 50))
        group.cancel_scope.cancel()
    assert len(caught.value.attempts) + caught.value.omitted == 50
    assert turns >= 49


async def test_thousands_of_matching_data_keys_cost_no_memory() -> None:
    """The error keeps the first few attempts and counts the others."""
    key, encrypted = _raw_aes()
    request = asking(*[encrypted] * 5000)
    for provider in (key, MultiMasterKeyProvider(key, RawAESMasterKey("x", "y", wrapping_key=bytes(32)))):
        tracemalloc.start()
        try:
            with pytest.raises(ProviderError, match=r"; and 4980 more$") as caught:
                await provider.decrypt_data_key(request)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert (len(caught.value.attempts), caught.value.omitted) == (20, 4980)
        assert kept < 200_000


async def test_many_failures_of_one_provider_hide_no_other() -> None:
    key, encrypted = _raw_aes()
    other, others = _hierarchical()
    with pytest.raises(ProviderError) as caught:
        await MultiMasterKeyProvider(key, other).decrypt_data_key(asking(*[encrypted] * 1000, others))
    assert {attempt.provider_id for attempt in caught.value.attempts} == {"mine", "aws-kms-hierarchy"}
    assert len(caught.value.attempts) + caught.value.omitted == 1001
