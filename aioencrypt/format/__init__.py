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

The header stores the encryption context, and its tag authenticates it. Each encrypted data key holds the
same data key under another master key. The message key is derived from the data key, the message id and the
suite; the commitment in the header identifies it. Frames are encrypted under the message key, with their
sequence number as IV. Their AAD covers the message id and the kind, number and length of the frame, so no
frame can be moved, dropped or repeated. The final frame marks the end.

`MessageEncryptor` and `MessageDecryptor` are the state machines that write and read messages. They are public
for programs with their own I/O; the rest of the library builds on them.

Specification: https://github.com/awslabs/aws-encryption-sdk-specification, data-format/.
"""

from aioencrypt.format.decryptor import MessageDecryptor, State
from aioencrypt.format.encryptor import MessageEncryptor
from aioencrypt.format.frames import ciphertext_length, plaintext_length
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
    "ciphertext_length",
    "plaintext_length",
]


def __dir__() -> list[str]:
    return __all__
