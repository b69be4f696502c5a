"""Namespaces of raw keys, random data keys, and the errors for copying keys.

Specification: framework/keyring-interface.md#key-namespace.
"""

from __future__ import annotations

import os

from aioencrypt.format import AlgorithmSuite
from aioencrypt.providers.values import DataKey
from aioencrypt.runtime.arguments import encode_text

KMS_PROVIDER_ID = "aws-kms"


def check_names(key_namespace: str, key_name: str) -> None:
    """Check the namespace and name of a raw key; raises `TypeError` and `ValueError`.

    A KMS namespace is rejected, because readers would send the data key to KMS.
    """
    for what, value in (("key_namespace", key_namespace), ("key_name", key_name)):
        if len(encode_text(what, value)) > 0xFFFF - 20:
            raise ValueError(f"{what} is too long for the message format")
    if key_namespace.startswith(KMS_PROVIDER_ID):
        raise ValueError(
            f"key_namespace {key_namespace!r} starts with {KMS_PROVIDER_ID!r}, which is reserved for AWS KMS"
        )


def namespaces_in_messages(key_namespace: str) -> frozenset[str]:
    """Return the provider ids that writers derive from a namespace.

    aws-encryption-sdk for Python before 4.0.1 wrote the length in characters instead of bytes, and so cut off
    the end of namespaces that are not ASCII, even in the middle of a character.
    """
    cut = key_namespace.encode()[: len(key_namespace)]
    return frozenset((key_namespace, cut.decode("utf-8", "surrogateescape")))


def random_data_key(suite: AlgorithmSuite) -> DataKey:
    """Return a random data key for a suite."""
    return DataKey(os.urandom(suite.data_key_length))


def not_copied(key: object) -> TypeError:
    """Return the error for pickling or copying a key, which would copy its key bytes."""
    return TypeError(
        f"{type(key).__name__} holds key bytes and cannot be pickled or copied; "
        "create it where it is used, from the stored key"
    )


def not_identified(key: object) -> TypeError:
    """Return the error for Dask, which pickles its arguments to identify them and hides why that fails."""
    return TypeError(f"{not_copied(key)}; give Dask a function that creates it, or 'package.module:name'")
