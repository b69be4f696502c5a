"""The message format of the AWS Encryption SDK, without I/O.

A message from its first to its last byte::

    header        version 1                          version 2
                  version            01              version            02
                  type               80
                  algorithm suite    2 bytes         algorithm suite    2 bytes
                  message id        16 bytes         message id        32 bytes
                  context            2 + n bytes     context            2 + n bytes
                  data keys          2 + n bytes     data keys          2 + n bytes
                  content type       1 byte          content type       1 byte
                  reserved, IV length  5 bytes
                  frame length       4 bytes         frame length       4 bytes
                                                     key commitment    32 bytes
                  IV                12 bytes
                  tag               16 bytes         tag               16 bytes
    body          regular frames, each: sequence number 4, IV 12, content, tag 16
                  final frame: FF FF FF FF, sequence number 4, IV 12, length 4, content, tag 16
    footer        signature length 2, signature; only where the suite signs

The encryption context is stored in the header and authenticated by its tag. Each encrypted data key
is the same data key under another master key. The data key, the message id and the suite give the
key of the message; the commitment in the header says which key that is. Frames are sealed under it
with their sequence number as IV, and authenticate the message id, their kind, number and length, so
that no frame can be moved, dropped or repeated. The final frame marks the end.

`MessageEncryptor` and `MessageDecryptor` are the machines that write and read this; they are public
for programs with their own I/O. Everything else of the library builds on them.

Specification: https://github.com/awslabs/aws-encryption-sdk-specification, data-format/.
"""

from aioencrypt.format.decryptor import MessageDecryptor, State
from aioencrypt.format.encryptor import MessageEncryptor
from aioencrypt.format.header import ContentType, EncryptedDataKey, MessageHeader
from aioencrypt.format.suites import AlgorithmSuite, CommitmentPolicy, SignatureAlgorithm
from aioencrypt.format.work import (
    EndOfMessage,
    Event,
    HeaderParsed,
    HeaderVerified,
    NeedData,
    OpenWork,
    Plaintext,
    SealWork,
    VerifyWork,
    Work,
)

__all__ = [
    "AlgorithmSuite",
    "CommitmentPolicy",
    "ContentType",
    "EncryptedDataKey",
    "EndOfMessage",
    "Event",
    "HeaderParsed",
    "HeaderVerified",
    "MessageDecryptor",
    "MessageEncryptor",
    "MessageHeader",
    "NeedData",
    "OpenWork",
    "Plaintext",
    "SealWork",
    "SignatureAlgorithm",
    "State",
    "VerifyWork",
    "Work",
]


def __dir__() -> list[str]:
    return __all__
