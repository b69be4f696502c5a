"""The peers: the official Python SDK with both kinds of keys, age by pyrage, streaming AEAD of Tink.

What is not installed is left out, and named.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from common import KIB, MIB, seconds
from ours import KEY_BYTES, NAME, NAMESPACE, SUITES, message_of

# Enough to see which of two read sizes is better.
_TRIAL_LENGTH = 4 * MIB


class Peer(ABC):
    """Does with the same data what we do; `prepare` comes first."""

    name: str
    modules: tuple[str, ...]
    suites: tuple[str, ...]

    @abstractmethod
    def prepare(self, data: bytes, message: bytes, suite: str, frame: int) -> None:
        """Get ready to encrypt data and to decrypt it again; `message` is data as we encrypted it."""

    @abstractmethod
    def encrypt(self) -> None:
        """Encrypt everything, and drop it."""

    @abstractmethod
    def decrypt(self) -> None:
        """Decrypt everything, and drop it."""


class Official(Peer):
    """The official SDK, read at the better of two sizes: 64 KiB, and a frame."""

    name = "official SDK"
    modules: tuple[str, ...] = ("aws_encryption_sdk",)
    suites = ("unsigned", "signed")

    def __init__(self) -> None:
        import aws_encryption_sdk

        self._sdk = aws_encryption_sdk
        self.client = aws_encryption_sdk.EncryptionSDKClient()
        self.key = self._make_key()
        self._reads = {"encrypt": 64 * KIB, "decrypt": 64 * KIB}

    def _make_key(self) -> dict[str, Any]:
        from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
        from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
        from aws_encryption_sdk.key_providers.raw import RawMasterKey

        algorithm = WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING
        key = WrappingKey(algorithm, KEY_BYTES, EncryptionKeyType.SYMMETRIC)
        return {"key_provider": RawMasterKey(provider_id=NAMESPACE, key_id=NAME, wrapping_key=key)}

    def algorithm(self, suite: str) -> Any:
        """Return a suite as this SDK has it."""
        return self._sdk.Algorithm.get_by_id(SUITES[suite].value)

    def prepare(self, data: bytes, message: bytes, suite: str, frame: int) -> None:
        self._suite, self._frame = suite, frame
        trial = data[:_TRIAL_LENGTH]
        trials = {"encrypt": trial, "decrypt": message_of(trial, suite, frame)}
        for mode, content in trials.items():
            times = {read: self._trial(mode, content, read) for read in (64 * KIB, frame)}
            self._reads[mode] = min(times, key=times.__getitem__)
        self._content = {"encrypt": data, "decrypt": message}

    def _trial(self, mode: str, content: bytes, read: int) -> float:
        return min(seconds(lambda: self._all(mode, content, read)) for _ in range(2))

    def _all(self, mode: str, content: bytes, read: int) -> None:
        for _ in self.pieces(mode, content, self._suite, self._frame, read):
            pass

    def pieces(self, mode: str, content: bytes, suite: str, frame: int, read: int) -> Iterator[bytes]:
        """Encrypt or decrypt, `read` bytes at a time."""
        encrypting = {"algorithm": self.algorithm(suite), "frame_length": frame}
        arguments = encrypting if mode == "encrypt" else {}
        with self.client.stream(mode=mode, source=io.BytesIO(content), **self.key, **arguments) as stream:
            while piece := stream.read(read):
                yield piece

    def encrypt(self) -> None:
        self._all("encrypt", self._content["encrypt"], self._reads["encrypt"])

    def decrypt(self) -> None:
        self._all("decrypt", self._content["decrypt"], self._reads["decrypt"])


class Keyring(Official):
    """The official SDK, with a keyring of the Material Providers Library."""

    name = "MPL keyring"
    modules = ("aws_encryption_sdk", "aws_cryptographic_material_providers")

    def _make_key(self) -> dict[str, Any]:
        from aws_cryptographic_material_providers.mpl import AwsCryptographicMaterialProviders
        from aws_cryptographic_material_providers.mpl.config import MaterialProvidersConfig
        from aws_cryptographic_material_providers.mpl.models import AesWrappingAlg, CreateRawAesKeyringInput

        wanted = CreateRawAesKeyringInput(
            key_namespace=NAMESPACE,
            key_name=NAME,
            wrapping_key=KEY_BYTES,
            wrapping_alg=AesWrappingAlg.ALG_AES256_GCM_IV12_TAG16,
        )
        providers = AwsCryptographicMaterialProviders(config=MaterialProvidersConfig())
        return {"keyring": providers.create_raw_aes_keyring(wanted)}


class Pyrage(Peer):
    """The age format, by the Rust library: ChaCha20-Poly1305, frames of 64 KiB whatever is asked."""

    name = "pyrage"
    modules = ("pyrage",)
    suites = ("unsigned",)

    def __init__(self) -> None:
        import pyrage

        self._pyrage = pyrage
        self._identity = pyrage.x25519.Identity.generate()

    def prepare(self, data: bytes, message: bytes, suite: str, frame: int) -> None:
        self._data = data
        sealed = io.BytesIO()
        self._pyrage.encrypt_io(io.BytesIO(data), sealed, [self._identity.to_public()])
        self._sealed = sealed.getvalue()

    def encrypt(self) -> None:
        self._pyrage.encrypt_io(io.BytesIO(self._data), _Drop(), [self._identity.to_public()])

    def decrypt(self) -> None:
        self._pyrage.decrypt_io(io.BytesIO(self._sealed), _Drop(), [self._identity])


class Tink(Peer):
    """Streaming AEAD of Tink: AES-256-GCM in segments as long as a frame, written and read by segment."""

    name = "tink"
    modules = ("tink",)
    suites = ("unsigned",)

    def __init__(self) -> None:
        from tink import new_keyset_handle, streaming_aead
        from tink.proto import common_pb2

        streaming_aead.register()

        def primitive(segment: int) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                template = streaming_aead.streaming_aead_key_templates
                wanted = template.create_aes_gcm_hkdf_streaming_key_template(
                    32, common_pb2.SHA256, 32, segment
                )
            return new_keyset_handle(wanted).primitive(streaming_aead.StreamingAead)

        self._primitive = primitive

    def prepare(self, data: bytes, message: bytes, suite: str, frame: int) -> None:
        self._data, self._read = data, max(frame, 64 * KIB)
        self._aead = self._primitive(frame)
        sealed = _Kept()
        self._write(sealed)
        self._sealed = sealed.getvalue()

    def _write(self, sink: io.BufferedIOBase | io.RawIOBase) -> None:
        with self._aead.new_encrypting_stream(sink, b"") as stream:
            for start in range(0, len(self._data), self._read):
                stream.write(self._data[start : start + self._read])

    def encrypt(self) -> None:
        self._write(_Drop())

    def decrypt(self) -> None:
        with self._aead.new_decrypting_stream(io.BytesIO(self._sealed), b"") as stream:
            while stream.read(self._read):
                pass


class _Drop(io.RawIOBase):
    """A sink that keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return len(data)


class _Kept(io.BytesIO):
    """A sink that Tink does not close."""

    def close(self) -> None:
        pass


def installed_peers() -> tuple[list[Peer], list[str]]:
    """Return the peers that are installed, and the names of the others."""
    found: list[Peer] = []
    missing: list[str] = []
    for kind in (Official, Keyring, Pyrage, Tink):
        if all(importlib.util.find_spec(module) for module in kind.modules):
            found.append(kind())
        else:
            missing.append(kind.name)
    return found, missing
