"""`python -m aioencrypt.testing.kms`: the in-memory KMS over HTTP."""

from aioencrypt.testing.kms.server import main

main()
