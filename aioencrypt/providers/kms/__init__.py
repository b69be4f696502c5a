"""Keys that stay in AWS KMS."""
