"""Branch keys: a key store in DynamoDB, and the master key that wraps data keys under a branch key."""
