"""Two headers of which the identifiers that the specification has are equal, by somebody who wrote both.

An identifier joins the encrypted data keys without their number, so that the end of an encryption context
can stand where another header has one more data key. Specification: framework/caching-cmm.md#resource-suffix.
"""

from __future__ import annotations

import pytest

from aioencrypt import CachingCMM, ProviderError
from aioencrypt.format.context import serialize_context
from aioencrypt.materials import DataKey, DecryptionMaterialsRequest, EncryptedDataKey
from tests.support.caching import REQUIRE
from tests.support.providers import OwnKey, asking
from tests.support.streaming import UNSIGNED

pytestmark = pytest.mark.anyio

VICTIM = {"tenant": "victim"}
# 00 in front of 03 70 pairs reads as a provider id of three bytes, "p" and the two of the first length,
# which comes after "own"; then follows the first key as the length of the provider info.
PAIRS, FIRST_KEY = 0x0370, "\x00\x01"
CIPHERTEXT_LENGTH = 0x1841


def crafted() -> tuple[dict[str, str], EncryptedDataKey]:
    """Return a context, and the data key that it can be read as, with `VICTIM` behind it."""
    end = "\0" + serialize_context(VICTIM).decode()
    keys = [FIRST_KEY, *(chr(2 + index // 100) + chr(1 + index % 100) for index in range(PAIRS - 1))]
    context = dict.fromkeys(keys, "")
    context[FIRST_KEY] = chr(CIPHERTEXT_LENGTH & 0xFF) * (CIPHERTEXT_LENGTH >> 8)
    start = 2 + 3 + 2 + 1 + 2  # the fields of the data key in front of its ciphertext
    filler = CIPHERTEXT_LENGTH - (len(serialize_context(context)) + 1 - start)
    context[keys[-1]] = "x" * filler + end
    serialized = b"\0" + serialize_context(context)
    sealed = serialized[start : start + CIPHERTEXT_LENGTH]
    return context, EncryptedDataKey("p\0\x02", b"\0", sealed)


async def test_a_header_does_not_get_the_materials_of_another_one() -> None:
    """What was wrapped under one encryption context would be taken as authenticated under another."""
    key = OwnKey("a")
    context, extra = crafted()
    wrapped = key.wrap(DataKey(bytes(32)), asking(suite=UNSIGNED, context=context))
    first, second = (
        DecryptionMaterialsRequest(
            algorithm_suite=UNSIGNED,
            commitment_policy=REQUIRE,
            encrypted_data_keys=data_keys,
            encryption_context=stored,
        )
        for data_keys, stored in (((wrapped,), context), ((wrapped, extra), VICTIM))
    )
    joined = [
        b"".join(sorted(data_key.serialize() for data_key in request.encrypted_data_keys))
        + b"\0"
        + serialize_context(request.encryption_context)
        for request in (first, second)
    ]
    assert joined[0] == joined[1]

    cmm = CachingCMM(key, max_age=60)
    materials = await cmm.decrypt_materials(first)
    assert materials.encryption_context == context
    with pytest.raises(ProviderError):
        await cmm.decrypt_materials(second)
