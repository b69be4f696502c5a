"""Branch keys in a DynamoDB table, and the master key that uses them."""
