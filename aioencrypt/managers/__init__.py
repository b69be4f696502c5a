"""Cryptographic materials managers (CMMs)."""
