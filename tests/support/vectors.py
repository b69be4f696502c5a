"""The published test vectors: a folder of manifests, whose README says how it is laid out.

It is no part of the project. It is found by the environment variable AIOENCRYPT_VECTORS, or as
`../shared/vectors` beside the project.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from aioencrypt import (
    AlgorithmSuite,
    CommitmentPolicy,
    EncryptionClient,
    MessageHeader,
    RawAESMasterKey,
    RawRSAMasterKey,
    RSAPadding,
    SignaturePolicy,
)
from aioencrypt.branch_keys import HierarchicalMasterKey
from aioencrypt.format import ContentType
from aioencrypt.format.header import parse_header
from aioencrypt.format.signing import RunningDigest, verify
from aioencrypt.format.wire import ByteQueue
from aioencrypt.materials import DataKey, DataKeyRequest, EncryptedDataKey, MasterKey
from tests.support.hierarchical import MemoryKeyStore

_PROJECT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("AIOENCRYPT_VECTORS") or _PROJECT.parent / "shared" / "vectors")


class StaticDataKey(MasterKey):
    """Decrypts every encrypted data key to the same data key."""

    def __init__(self, data_key: bytes) -> None:
        self._data_key = data_key

    @property
    def provider_id(self) -> str:
        return "static"

    @property
    def key_id(self) -> str:
        return "static"

    def owns_data_key(self, encrypted_data_key: EncryptedDataKey) -> bool:
        return True

    async def generate_data_key(self, request: DataKeyRequest) -> tuple[DataKey, EncryptedDataKey]:
        raise NotImplementedError

    async def encrypt_data_key(self, data_key: DataKey, request: DataKeyRequest) -> EncryptedDataKey:
        raise NotImplementedError

    async def unwrap_data_key(self, encrypted_data_key: EncryptedDataKey, request: DataKeyRequest) -> DataKey:
        return DataKey(self._data_key[: request.algorithm_suite.data_key_length])


@attrs.frozen
class Parts:
    """A message taken to pieces without a key; `frames` counts a non-framed body as one."""

    header: MessageHeader
    frames: int
    signed_part: bytes = attrs.field(repr=False)
    signature: bytes | None
    trailing: int

    @property
    def signature_valid(self) -> bool:
        """Whether the key in the encryption context verifies the signature; raises `SignatureError`."""
        algorithm = self.header.algorithm_suite.signature
        if algorithm is None or self.signature is None:
            return False
        digest = RunningDigest(algorithm)
        digest.update([self.signed_part])
        point = base64.b64decode(self.header.encryption_context["aws-crypto-public-key"])
        verify(algorithm, point, self.signature, digest.finish())
        return True


def take_apart(message: bytes) -> Parts:
    """Parse the header, and walk over body and footer (data-format/message-body.md)."""
    queue = ByteQueue()
    queue.append(message)
    parser = parse_header(queue)
    try:
        next(parser)
    except StopIteration as stop:
        header: MessageHeader = stop.value.header
    else:
        raise ValueError("the message ends in its header")
    frames = _skip_frames(queue, header.frame_length) if header.frame_length else _skip_body(queue)
    signed_part = message[: len(message) - len(queue)]
    signature = _take(queue, _number(queue, 2)) if header.algorithm_suite.signed else None
    return Parts(header, frames, signed_part, signature, len(queue))


def _take(queue: ByteQueue, length: int) -> bytes:
    if len(queue) < length:
        raise ValueError(f"the message ends {length - len(queue)} bytes too early")
    return queue.take(length)


def _number(queue: ByteQueue, length: int) -> int:
    return int.from_bytes(_take(queue, length), "big")


def _skip_frames(queue: ByteQueue, frame_length: int) -> int:
    frames = 1
    while (number := _number(queue, 4)) == frames:
        _take(queue, 12 + frame_length + 16)
        frames += 1
    if (number, _number(queue, 4)) != (0xFFFFFFFF, frames):
        raise ValueError("the frames are not in order")
    _take(queue, 12)
    _take(queue, _number(queue, 4) + 16)
    return frames


def _skip_body(queue: ByteQueue) -> int:
    _take(queue, 12)
    _take(queue, _number(queue, 8) + 16)
    return 1


@attrs.frozen
class Vector:
    """One entry of a manifest; `keys` with what the key file says."""

    set_name: str
    entry: Mapping[str, Any] = attrs.field(repr=False)
    keys: Sequence[Mapping[str, Any]] = attrs.field(repr=False)

    @property
    def id(self) -> str:
        return str(self.entry["id"])

    @property
    def message(self) -> bytes:
        where = self.entry["ciphertext"]
        if "b64" in where:
            return base64.b64decode(where["b64"])
        start = where["offset"]
        return _pack(self.set_name, where["pack"])[start : start + where["length"]]

    @property
    def suite(self) -> AlgorithmSuite:
        message = self.message
        start = 2 if message[0] == 1 else 1
        return AlgorithmSuite(int.from_bytes(message[start : start + 2], "big"))

    @property
    def key_kinds(self) -> str:
        return "+".join(key["type"] for key in self.keys)

    @property
    def expected(self) -> Mapping[str, Any]:
        expected: Mapping[str, Any] = self.entry["expect"]
        return expected

    @property
    def reproduced_context(self) -> Mapping[str, str]:
        """The pairs that the message lacks."""
        return self.entry.get("reproduced_ec") or {}

    @property
    def plaintext(self) -> Mapping[str, Any] | None:
        """What is expected of the plaintext, of messages of .NET 4.0.0 too; None where there is none."""
        found = self.entry.get("expect_with_net_v4_0_0_retry") or self.expected
        return found if found["result"] == "plaintext" else None

    @property
    def client(self) -> EncryptionClient:
        """A client that reads messages of .NET 4.0.0, as by default."""
        return self._client(net_v4_0_0_retry=True)

    @property
    def strict_client(self) -> EncryptionClient:
        """A client that reads by the specification alone."""
        return self._client(net_v4_0_0_retry=False)

    def _client(self, *, net_v4_0_0_retry: bool) -> EncryptionClient:
        options = self.entry["options"]
        return EncryptionClient(
            commitment_policy=CommitmentPolicy(options["commitment_policy"]),
            max_encrypted_data_keys=options.get("max_encrypted_data_keys"),
            net_v4_0_0_retry=net_v4_0_0_retry,
        )

    @property
    def signature_policy(self) -> SignaturePolicy:
        unsigned_only = self.entry["options"].get("unsigned_only")
        return SignaturePolicy.FORBID if unsigned_only else SignaturePolicy.ALLOW

    def master_keys(self) -> list[MasterKey]:
        """Return the keys; raises `KeyError` for those of the real AWS KMS."""
        return [_MASTER_KEYS[key["type"]](key) for key in self.keys]

    def check_header(self, header: MessageHeader) -> None:
        """Assert that a header says what the manifest says."""
        expected = self.entry["header"]
        assert header.version == expected["version"]
        assert header.algorithm_suite.value == expected["algorithm"]
        assert header.message_id.hex() == expected["message_id"]
        assert header.encryption_context == expected["encryption_context"]
        assert len(header.encrypted_data_keys) == expected["edks"]
        assert header.content_type is ContentType(expected["content_type"])
        assert header.frame_length == expected["frame_length"]


def _raw_aes(key: Mapping[str, Any]) -> MasterKey:
    wrapping_key = base64.b64decode(key["key_b64"])
    return RawAESMasterKey(key["provider_id"], key["key_id"], wrapping_key=wrapping_key)


@cache
def _raw_rsa_pem(namespace: str, name: str, padding: str, private_pem: str) -> MasterKey:
    return RawRSAMasterKey(namespace, name, padding=RSAPadding(padding), private_key=private_pem.encode())


def _raw_rsa(key: Mapping[str, Any]) -> MasterKey:
    return _raw_rsa_pem(key["provider_id"], key["key_id"], key["padding"], key["private_pem"])


def _static(key: Mapping[str, Any]) -> MasterKey:
    return StaticDataKey(base64.b64decode(key["data_key_b64"]))


def _hierarchical(key: Mapping[str, Any]) -> MasterKey:
    store = MemoryKeyStore()
    branch_key = base64.b64decode(key["branch_key_b64"])
    store.add(key["branch_key_id"], key["branch_key_version"], branch_key)
    return HierarchicalMasterKey(store, branch_key_id=key["branch_key_id"], max_age=60)


_MASTER_KEYS = {
    "hierarchical": _hierarchical,
    "raw-aes": _raw_aes,
    "raw-rsa": _raw_rsa,
    "static-data-key": _static,
}


@cache
def _pack(set_name: str, name: str) -> bytes:
    return (FOLDER / set_name / name).read_bytes()


def sets() -> list[str]:
    """Name the sets; none where the folder is not there."""
    return sorted(path.parent.name for path in FOLDER.glob("*/manifest.json"))


@cache
def vectors(set_name: str) -> tuple[Vector, ...]:
    """Return the entries of a set."""
    known = json.loads((FOLDER / "keys.json").read_bytes())
    entries = json.loads((FOLDER / set_name / "manifest.json").read_bytes())["tests"]
    return tuple(
        Vector(set_name, entry, [{**known.get(key.get("ref"), {}), **key} for key in entry["keys"]])
        for entry in entries
    )
