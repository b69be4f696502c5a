# The public names and where they are: read by type checkers, and by `__init__.py`, which loads them.
# It has no docstring, so that editors show the one of `__init__.py`.

from .aws.client_suppliers import (
    KMSClientFactory as KMSClientFactory,
    exclude_regions as exclude_regions,
    limit_regions as limit_regions,
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
    ContentType as ContentType,
    EncryptedDataKey as EncryptedDataKey,
    MessageHeader as MessageHeader,
    ciphertext_length as ciphertext_length,
    plaintext_length as plaintext_length,
)
from .inspection import (
    InspectedKey as InspectedKey,
    MessageInspection as MessageInspection,
    inspect_message as inspect_message,
)
from .managers.base import (
    CryptographicMaterialsManager as CryptographicMaterialsManager,
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
from .materials import (
    DataKey as DataKey,
    DataKeyRequest as DataKeyRequest,
    DecryptionMaterials as DecryptionMaterials,
    DecryptionMaterialsRequest as DecryptionMaterialsRequest,
    EncryptionMaterials as EncryptionMaterials,
    EncryptionMaterialsRequest as EncryptionMaterialsRequest,
    KeyUse as KeyUse,
    Provenance as Provenance,
)
from .policies import (
    Limits as Limits,
    Offload as Offload,
    Release as Release,
    SignaturePolicy as SignaturePolicy,
)
from .providers.base import (
    DecryptedDataKey as DecryptedDataKey,
    MasterKey as MasterKey,
    MasterKeyProvider as MasterKeyProvider,
)
from .providers.branch_keys.hierarchical import (
    BranchKeyReader as BranchKeyReader,
    HierarchicalMasterKey as HierarchicalMasterKey,
)
from .providers.branch_keys.items import (
    BeaconKeyMaterials as BeaconKeyMaterials,
    BranchKeyMaterials as BranchKeyMaterials,
)
from .providers.branch_keys.kms import (
    KMSConfiguration as KMSConfiguration,
    KMSDiscovery as KMSDiscovery,
    KMSKeyArn as KMSKeyArn,
    KMSMRDiscovery as KMSMRDiscovery,
    KMSMRKeyArn as KMSMRKeyArn,
)
from .providers.branch_keys.store import (
    BranchKeyStore as BranchKeyStore,
    KeyStoreInfo as KeyStoreInfo,
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
from .rewrap import (
    RewrappedHeader as RewrappedHeader,
    RewrapResult as RewrapResult,
    RewrapStream as RewrapStream,
    rewrap_file as rewrap_file,
    rewrap_header as rewrap_header,
    rewrap_stream as rewrap_stream,
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
    MessageSink as MessageSink,
)
from .streams.pushed import (
    PlaintextSink as PlaintextSink,
)
from .streams.ranges import (
    RangeSource as RangeSource,
    SeekableSource as SeekableSource,
)
from .streams.seekable import (
    SeekableDecryptStream as SeekableDecryptStream,
)
from .streams.sources import (
    Source as Source,
)

__all__ = [
    "AWSConnection",
    "AlgorithmSuite",
    "AsyncCache",
    "Attempt",
    "BeaconKeyMaterials",
    "BranchKeyMaterials",
    "BranchKeyReader",
    "BranchKeyStore",
    "CacheStatistics",
    "CachingCMM",
    "CommitmentError",
    "CommitmentPolicy",
    "CommitmentPolicyError",
    "ContentType",
    "CryptographicMaterialsManager",
    "DataKey",
    "DataKeyRequest",
    "DecryptResult",
    "DecryptStream",
    "DecryptWriter",
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
    "HierarchicalMasterKey",
    "IncompleteReadError",
    "InspectedKey",
    "KMSClientFactory",
    "KMSConfiguration",
    "KMSDiscovery",
    "KMSDiscoveryMasterKeyProvider",
    "KMSECDHMasterKey",
    "KMSEncryptionAlgorithm",
    "KMSKeyArn",
    "KMSMRDiscovery",
    "KMSMRKeyArn",
    "KMSMasterKey",
    "KMSMasterKeyProvider",
    "KMSRSAMasterKey",
    "KeyStoreInfo",
    "KeyUse",
    "LimitError",
    "Limits",
    "MalformedMessageError",
    "MasterKey",
    "MasterKeyProvider",
    "MessageError",
    "MessageHeader",
    "MessageInspection",
    "MessageSink",
    "MultiMasterKeyProvider",
    "MultiRegion",
    "Offload",
    "PlaintextLengthError",
    "PlaintextSink",
    "PolicyError",
    "Provenance",
    "Provider",
    "ProviderClosedError",
    "ProviderError",
    "RSAPadding",
    "RangeSource",
    "RawAESMasterKey",
    "RawECDHMasterKey",
    "RawRSAMasterKey",
    "Release",
    "RequiredEncryptionContextCMM",
    "RequiredEncryptionContextError",
    "RewrapResult",
    "RewrapStream",
    "RewrappedHeader",
    "SeekableDecryptStream",
    "SeekableSource",
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
    "ciphertext_length",
    "decrypt",
    "decrypt_stream",
    "encrypt",
    "encrypt_stream",
    "exclude_regions",
    "inspect_message",
    "limit_regions",
    "open_seekable",
    "plaintext_length",
    "rewrap_file",
    "rewrap_header",
    "rewrap_stream",
]
__version__: str
