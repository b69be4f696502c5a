"""Test tools for programs that use this library: AWS KMS and DynamoDB in memory.

`InMemoryKMS` needs neither a network nor an account. It really encrypts, and fails where AWS fails: for the
wrong region, context or key, and for a key that is disabled, denied or pending deletion. Use its clients in
place of aiobotocore clients::

    from aioencrypt.testing import InMemoryKMS

    kms = InMemoryKMS()
    here = kms.create_key(region="us-east-1")
    there = kms.create_key(region="eu-west-1")
    provider = KMSMasterKeyProvider([here, there], connection=kms.connection("us-east-1", "eu-west-1"))

Keys may belong to other accounts, be multi-Region keys (`multi_region=True`, `replicate_key`) or key pairs
(`key_spec="RSA_2048"`, `"ECC_NIST_P256"`, ...), and have aliases (`create_alias`). To test how a program
handles failures::

    kms.disable_key(here)                                # DisabledException; enable_key() undoes it
    kms.schedule_key_deletion(here)                      # KMSInvalidStateException
    kms.deny(here, "Decrypt")                            # AccessDeniedException; allow() undoes it
    kms.expire_credentials()                             # ExpiredTokenException
    kms.fail_next("ThrottlingException", times=2)        # the next two requests
    kms.outage("eu-west-1")                              # ConnectionError; recover() undoes it
    kms.latency = 0.2                                    # seconds; waiting can be cancelled
    kms.answer_next("Decrypt", {"Plaintext": b"short"})  # a service that is not what it seems

and to check its requests::

    assert kms.call_count("GenerateDataKey") == 1
    assert all(call.key_id is not None for call in kms.calls if call.operation == "Decrypt")

Branch keys need a table: `InMemoryDynamoDB` has tables with conditions and transactions, and the same ways to
fail::

    dynamodb = InMemoryDynamoDB()
    store = BranchKeyStore(
        "branch-keys",
        kms_configuration=KMSKeyArn(here),
        logical_name="branch-keys",
        connection=AWSConnection(kms=kms.clients("us-east-1"), dynamodb=dynamodb.clients("us-east-1")),
    )

For programs that create their own clients, in any language, `aioencrypt.testing.kms` serves the same KMS over
HTTP; it needs aiohttp (`pip install 'aioencrypt[testing]'`).
"""

import lazy_loader

# The names stand in __init__.pyi. pytest imports this package for its plugin, whatever is tested.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
