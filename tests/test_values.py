"""Values without secrets compare, hash, copy and pickle, also into another process."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs
import pytest

import aioencrypt.format
from aioencrypt import (
    AlgorithmSuite,
    Attempt,
    AWSConnection,
    CacheStatistics,
    CommitmentPolicy,
    DecryptResult,
    DiscoveryFilter,
    EncryptResult,
    Limits,
    MessageHeader,
    Provenance,
    RawAESMasterKey,
    encrypt,
)
from aioencrypt.branch_keys import (
    BeaconKeyMaterials,
    BranchKeyMaterials,
    KeyStoreInfo,
    KMSDiscovery,
    KMSKeyArn,
    KMSMRDiscovery,
    KMSMRKeyArn,
)
from aioencrypt.format import ContentType
from aioencrypt.format.context import EncryptionContext, read_only
from aioencrypt.inspection import InspectedKey, MessageInspection
from aioencrypt.materials import (
    DataKey,
    DataKeyRequest,
    DecryptedDataKey,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptedDataKey,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
    KeyUse,
)
from aioencrypt.rewrap import RewrappedHeader, RewrapResult
from tests.support import public

pytestmark = pytest.mark.anyio

SECRET = "value-of-a-context"
ARN = "arn:aws:kms:us-east-1:111122223333:key/12345678-1234-1234-1234-123456789012"
CONTEXT = {"tenant": SECRET, "purpose": "tests"}
SUITE = AlgorithmSuite.ALG_AES_256_GCM_HKDF_SHA512_COMMIT_KEY
WRAPPED = EncryptedDataKey("provider", b"info", b"ciphertext")
USED = Provenance((KeyUse("generate", "provider", "info"),), cached=True)


def header() -> MessageHeader:
    return MessageHeader(2, SUITE, bytes(32), CONTEXT, (WRAPPED,), ContentType.FRAMED, 4096, bytes(32))


def inspection() -> MessageInspection:
    return MessageInspection(
        algorithm_suite=SUITE,
        message_id=bytes(32),
        unauthenticated_context=CONTEXT,
        encrypted_data_keys=(WRAPPED,),
        frame_length=4096,
        header_length=100,
        message_length=500,
        plaintext_length=300,
    )


MAKERS: dict[type, Callable[[], Any]] = {
    EncryptedDataKey: lambda: WRAPPED,
    KeyUse: lambda: USED.keys[0],
    Provenance: lambda: USED,
    MessageHeader: header,
    EncryptResult: lambda: EncryptResult(b"ciphertext", header(), USED),
    DecryptResult: lambda: DecryptResult(b"plaintext", header(), USED),
    MessageInspection: inspection,
    InspectedKey: lambda: inspection().keys[0],
    Limits: lambda: Limits(max_plaintext_length=10),
    DiscoveryFilter: lambda: DiscoveryFilter(accounts=["111122223333"]),
    DataKeyRequest: lambda: DataKeyRequest(algorithm_suite=SUITE, encryption_context=CONTEXT),
    EncryptionMaterialsRequest: lambda: EncryptionMaterialsRequest(
        commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT, encryption_context=CONTEXT
    ),
    DecryptionMaterialsRequest: lambda: DecryptionMaterialsRequest(
        algorithm_suite=SUITE,
        commitment_policy=CommitmentPolicy.FORBID_ENCRYPT_ALLOW_DECRYPT,
        encrypted_data_keys=(WRAPPED,),
        encryption_context=CONTEXT,
        reproduced_encryption_context=CONTEXT,
    ),
    EncryptionContext: lambda: read_only(CONTEXT),
    AWSConnection: lambda: AWSConnection(region="us-east-1", profile="tests", kms="https://localhost"),
    CacheStatistics: lambda: CacheStatistics(1, 2, 3, 4, 5),
    KMSDiscovery: KMSDiscovery,
    KMSKeyArn: lambda: KMSKeyArn(ARN),
    KMSMRKeyArn: lambda: KMSMRKeyArn(ARN),
    KMSMRDiscovery: lambda: KMSMRDiscovery("us-east-1"),
    KeyStoreInfo: lambda: KeyStoreInfo("id", "table", "name", ("token",), KMSKeyArn(ARN)),
    RewrapResult: lambda: RewrapResult(header=header(), reencrypted=True),
    RewrappedHeader: lambda: RewrappedHeader(header=header(), serialized=b"start", old_length=9),
}
# What holds key bytes, or errors and keys of other people.
WITH_SECRETS = {
    Attempt,
    BeaconKeyMaterials,
    BranchKeyMaterials,
    DataKey,
    DecryptedDataKey,
    DecryptionMaterials,
    EncryptionMaterials,
}
each_value = pytest.mark.parametrize("make", MAKERS.values(), ids=[cls.__name__ for cls in MAKERS])


def test_every_public_value_is_in_one_of_the_tables() -> None:
    # Work and events of the machines are made by the machines.
    modules = [module for module in public.MODULES if module is not aioencrypt.format]
    exported = {getattr(module, name) for module in modules for name in module.__all__}
    values = {cls for cls in exported if inspect.isclass(cls) and (attrs.has(cls) or issubclass(cls, tuple))}
    assert values - WITH_SECRETS == {cls for cls in MAKERS if cls in exported}


@each_value
def test_a_value_equals_its_copies_and_hashes_alike(make: Callable[[], Any]) -> None:
    value = make()
    copies = [make(), copy.copy(value), copy.deepcopy(value)]
    copies += [
        pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ]
    for other in copies:
        assert other == value
        assert type(other) is type(value)
        assert hash(other) == hash(value)
        assert repr(other) == repr(value)
        assert SECRET not in repr(other)


@each_value
def test_a_value_comes_back_from_another_process(make: Callable[[], Any]) -> None:
    program = "import pickle, sys; sys.stdout.buffer.write(pickle.dumps(pickle.load(sys.stdin.buffer)))"
    value = make()
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps(value), capture_output=True, check=True
    )
    assert pickle.loads(done.stdout) == value


def test_copies_of_results_keep_their_provenance() -> None:
    for cls in (EncryptResult, DecryptResult):
        value = MAKERS[cls]()
        for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
            assert other.provenance == USED


async def test_the_context_of_a_header_is_a_dict_that_nobody_changes() -> None:
    key = RawAESMasterKey("tests", "key", wrapping_key=bytes(32))
    result = await encrypt(b"", key, encryption_context=CONTEXT, algorithm_suite=SUITE)
    context: Any = result.header.encryption_context
    assert json.loads(json.dumps(context)) == CONTEXT
    assert isinstance(context, dict)
    assert dict(context) == context.copy() == context | {} == CONTEXT
    assert type(context.copy()) is type(context | {}) is dict
    for change in (
        lambda: context.__setitem__("tenant", "other"),
        lambda: context.__delitem__("tenant"),
        lambda: context.__ior__({"tenant": "other"}),
        lambda: context.update(tenant="other"),
        lambda: context.setdefault("more", ""),
        lambda: context.pop("tenant"),
        lambda: context.popitem(),
        lambda: context.clear(),
    ):
        with pytest.raises(TypeError, match="read-only"):
            change()
    assert context == CONTEXT
    for text in (repr(context), str(context), f"{context}", f"{context!r}", f"{result}", f"{result.header}"):
        assert SECRET not in text
