"""The in-memory KMS over HTTP: `python -m aioencrypt.testing.kms.server`.

It speaks the protocol of AWS KMS (AWS JSON 1.1), so boto3, aiobotocore and every other SDK can call it. Any
credentials work: the region is taken from the scope of the signature, and the signature is not verified.
Pass the URL to clients as their endpoint::

    boto3.client("kms", endpoint_url=url, region_name="eu-west-1", ...)

The server supports the operations of `InMemoryKMSClient`, and CreateKey, ReplicateKey, CreateAlias,
DeleteAlias, EnableKey, DisableKey, ScheduleKeyDeletion, CancelKeyDeletion and CreateGrant.

To control it from another process, use plain JSON:

`GET /_calls`
    `{"count": 1, "calls": [{"operation": "Decrypt", ...}]}`, each with all that a `KMSCall` has
`DELETE /_calls`
    forgets them.
`POST /_faults`
    an object whose names are those of methods and attributes of `InMemoryKMS` and whose values are their
    arguments, carried out in that order: `{"fail_next": {"code": "ThrottlingException", "times": 2}}`,
    `{"outage": {"region": "eu-west-1"}}`, `{"recover": {"region": "eu-west-1"}}`,
    `{"deny": {"key_arn": "arn:...", "operations": ["Decrypt"]}}`, `{"allow": {...}}`,
    `{"expire_credentials": {}}`, `{"renew_credentials": {}}`, `{"latency": {"seconds": 0.2}}`,
    `{"answer_next": {"operation": "Decrypt", "changes": {"Plaintext": "c2hvcnQ="}}}` (blobs are base64).
    The answer is 204, or 400 with `{"message": ...}` at the first that it does not understand.

Use it for tests on one machine only: anyone who reaches the port may do everything.
"""

import lazy_loader

# The server needs aiohttp, the keys in memory do not.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
