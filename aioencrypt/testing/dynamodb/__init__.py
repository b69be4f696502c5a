"""A DynamoDB in memory, for tests."""
