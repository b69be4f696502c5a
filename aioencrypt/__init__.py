"""The AWS Encryption SDK for asyncio.

::

    async with encrypt_stream(reader, provider, encryption_context={"tenant": "42"}) as stream:
        async for chunk in stream:
            await sink.write(chunk)

A *provider* gives master keys, a *master key* encrypts data keys, a *data key* encrypts one message.
"""

import logging

from aioencrypt.client import (
    DecryptResult,
    EncryptionClient,
    EncryptResult,
    Provider,
    decrypt,
    decrypt_stream,
    encrypt,
    encrypt_stream,
    open,
)
from aioencrypt.errors import (
    Attempt,
    CommitmentError,
    CommitmentPolicyError,
    EncryptionContextMismatchError,
    EncryptionError,
    LimitError,
    MalformedMessageError,
    MessageError,
    PlaintextLengthError,
    PolicyError,
    ProviderClosedError,
    ProviderError,
    ServiceError,
    SignatureError,
    SignaturePolicyError,
    StreamBusyError,
    StreamClosedError,
    StreamError,
    StreamNotEnteredError,
    TagError,
    TrailingDataError,
    TruncatedMessageError,
    UnverifiedStreamError,
)
from aioencrypt.format import AlgorithmSuite, CommitmentPolicy, ContentType, EncryptedDataKey, MessageHeader
from aioencrypt.managers.base import CryptographicMaterialsManager
from aioencrypt.managers.default import DefaultCMM
from aioencrypt.materials import (
    DataKey,
    DataKeyRequest,
    DecryptionMaterials,
    DecryptionMaterialsRequest,
    EncryptionMaterials,
    EncryptionMaterialsRequest,
)
from aioencrypt.policies import Limits, Offload, Release, SignaturePolicy
from aioencrypt.providers.base import DecryptedDataKey, MasterKey, MasterKeyProvider
from aioencrypt.providers.kms import (
    DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider,
    KMSMasterKey,
    KMSMasterKeyProvider,
    MultiRegion,
)
from aioencrypt.providers.multi import MultiMasterKeyProvider
from aioencrypt.providers.raw_aes import RawAESMasterKey
from aioencrypt.providers.raw_rsa import RawRSAMasterKey, RSAPadding
from aioencrypt.streams.decrypt import DecryptStream
from aioencrypt.streams.encrypt import EncryptStream
from aioencrypt.streams.files import EncryptWriter
from aioencrypt.streams.sources import Source

__version__ = "0.1.0"

__all__ = [
    "AlgorithmSuite",
    "Attempt",
    "CommitmentError",
    "CommitmentPolicy",
    "CommitmentPolicyError",
    "ContentType",
    "CryptographicMaterialsManager",
    "DataKey",
    "DataKeyRequest",
    "DecryptResult",
    "DecryptStream",
    "DecryptedDataKey",
    "DecryptionMaterials",
    "DecryptionMaterialsRequest",
    "DefaultCMM",
    "DiscoveryFilter",
    "EncryptResult",
    "EncryptStream",
    "EncryptWriter",
    "EncryptedDataKey",
    "EncryptionClient",
    "EncryptionContextMismatchError",
    "EncryptionError",
    "EncryptionMaterials",
    "EncryptionMaterialsRequest",
    "KMSDiscoveryMasterKeyProvider",
    "KMSMasterKey",
    "KMSMasterKeyProvider",
    "LimitError",
    "Limits",
    "MalformedMessageError",
    "MasterKey",
    "MasterKeyProvider",
    "MessageError",
    "MessageHeader",
    "MultiMasterKeyProvider",
    "MultiRegion",
    "Offload",
    "PlaintextLengthError",
    "PolicyError",
    "Provider",
    "ProviderClosedError",
    "ProviderError",
    "RSAPadding",
    "RawAESMasterKey",
    "RawRSAMasterKey",
    "Release",
    "ServiceError",
    "SignatureError",
    "SignaturePolicy",
    "SignaturePolicyError",
    "Source",
    "StreamBusyError",
    "StreamClosedError",
    "StreamError",
    "StreamNotEnteredError",
    "TagError",
    "TrailingDataError",
    "TruncatedMessageError",
    "UnverifiedStreamError",
    "__version__",
    "decrypt",
    "decrypt_stream",
    "encrypt",
    "encrypt_stream",
    "open",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())
