"""Master keys in AWS KMS."""
