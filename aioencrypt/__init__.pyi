# The public names and where they are: read by type checkers, and by `__init__.py`, which loads them.
# It has no docstring, so that editors show the one of `__init__.py`.

from . import (
    aws as aws,
    branch_keys as branch_keys,
    format as format,
    inspection as inspection,
    materials as materials,
    rewrap as rewrap,
    streams as streams,
)
from .aws.connection import AWSConnection as AWSConnection
from .client import (
    DecryptResult as DecryptResult,
    DecryptWriter as DecryptWriter,
    EncryptionClient as EncryptionClient,
    EncryptResult as EncryptResult,
    Provider as Provider,
    decrypt as decrypt,
    decrypt_stream as decrypt_stream,
    encrypt as encrypt,
    encrypt_stream as encrypt_stream,
    open as open,
    open_seekable as open_seekable,
)
from .errors import (
    Attempt as Attempt,
    CommitmentError as CommitmentError,
    CommitmentPolicyError as CommitmentPolicyError,
    EncryptionContextMismatchError as EncryptionContextMismatchError,
    EncryptionError as EncryptionError,
    IncompleteReadError as IncompleteReadError,
    LimitError as LimitError,
    MalformedMessageError as MalformedMessageError,
    MessageError as MessageError,
    PlaintextLengthError as PlaintextLengthError,
    PolicyError as PolicyError,
    ProviderClosedError as ProviderClosedError,
    ProviderError as ProviderError,
    RequiredEncryptionContextError as RequiredEncryptionContextError,
    ServiceError as ServiceError,
    SignatureError as SignatureError,
    SignaturePolicyError as SignaturePolicyError,
    StreamBusyError as StreamBusyError,
    StreamClosedError as StreamClosedError,
    StreamError as StreamError,
    StreamNotEnteredError as StreamNotEnteredError,
    TagError as TagError,
    TrailingDataError as TrailingDataError,
    TruncatedMessageError as TruncatedMessageError,
    UnverifiedStreamError as UnverifiedStreamError,
)
from .format import (
    AlgorithmSuite as AlgorithmSuite,
    CommitmentPolicy as CommitmentPolicy,
    MessageHeader as MessageHeader,
    ciphertext_length as ciphertext_length,
    plaintext_length as plaintext_length,
)
from .managers.caching import (
    CachingCMM as CachingCMM,
)
from .managers.default import (
    DefaultCMM as DefaultCMM,
)
from .managers.required_context import (
    RequiredEncryptionContextCMM as RequiredEncryptionContextCMM,
)
from .policies import (
    Limits as Limits,
    Offload as Offload,
    Release as Release,
    SignaturePolicy as SignaturePolicy,
)
from .providers.base import (
    MasterKeyProvider as MasterKeyProvider,
)
from .providers.kms.ecdh import (
    KMSECDHMasterKey as KMSECDHMasterKey,
)
from .providers.kms.rsa import (
    KMSEncryptionAlgorithm as KMSEncryptionAlgorithm,
    KMSRSAMasterKey as KMSRSAMasterKey,
)
from .providers.kms.symmetric import (
    DiscoveryFilter as DiscoveryFilter,
    KMSDiscoveryMasterKeyProvider as KMSDiscoveryMasterKeyProvider,
    KMSMasterKey as KMSMasterKey,
    KMSMasterKeyProvider as KMSMasterKeyProvider,
    MultiRegion as MultiRegion,
)
from .providers.multi import (
    MultiMasterKeyProvider as MultiMasterKeyProvider,
)
from .providers.raw.aes import (
    RawAESMasterKey as RawAESMasterKey,
)
from .providers.raw.ecdh import (
    RawECDHMasterKey as RawECDHMasterKey,
)
from .providers.raw.rsa import (
    RawRSAMasterKey as RawRSAMasterKey,
    RSAPadding as RSAPadding,
)
from .providers.values import (
    Provenance as Provenance,
)
from .runtime.cache import (
    AsyncCache as AsyncCache,
    CacheStatistics as CacheStatistics,
)
from .streams.decrypt import (
    DecryptStream as DecryptStream,
)
from .streams.encrypt import (
    EncryptStream as EncryptStream,
)
from .streams.files import (
    EncryptWriter as EncryptWriter,
)
from .streams.seekable import (
    SeekableDecryptStream as SeekableDecryptStream,
)

__all__ = [
    "AWSConnection",
    "AlgorithmSuite",
    "AsyncCache",
    "Attempt",
    "CacheStatistics",
    "CachingCMM",
    "CommitmentError",
    "CommitmentPolicy",
    "CommitmentPolicyError",
    "DecryptResult",
    "DecryptStream",
    "DecryptWriter",
    "DefaultCMM",
    "DiscoveryFilter",
    "EncryptResult",
    "EncryptStream",
    "EncryptWriter",
    "EncryptionClient",
    "EncryptionContextMismatchError",
    "EncryptionError",
    "IncompleteReadError",
    "KMSDiscoveryMasterKeyProvider",
    "KMSECDHMasterKey",
    "KMSEncryptionAlgorithm",
    "KMSMasterKey",
    "KMSMasterKeyProvider",
    "KMSRSAMasterKey",
    "LimitError",
    "Limits",
    "MalformedMessageError",
    "MasterKeyProvider",
    "MessageError",
    "MessageHeader",
    "MultiMasterKeyProvider",
    "MultiRegion",
    "Offload",
    "PlaintextLengthError",
    "PolicyError",
    "Provenance",
    "Provider",
    "ProviderClosedError",
    "ProviderError",
    "RSAPadding",
    "RawAESMasterKey",
    "RawECDHMasterKey",
    "RawRSAMasterKey",
    "Release",
    "RequiredEncryptionContextCMM",
    "RequiredEncryptionContextError",
    "SeekableDecryptStream",
    "ServiceError",
    "SignatureError",
    "SignaturePolicy",
    "SignaturePolicyError",
    "StreamBusyError",
    "StreamClosedError",
    "StreamError",
    "StreamNotEnteredError",
    "TagError",
    "TrailingDataError",
    "TruncatedMessageError",
    "UnverifiedStreamError",
    "__version__",
    "ciphertext_length",
    "decrypt",
    "decrypt_stream",
    "encrypt",
    "encrypt_stream",
    "open_seekable",
    "plaintext_length",
]
__version__: str
