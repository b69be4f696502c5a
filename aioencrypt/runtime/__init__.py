"""What runs work and remembers it: event loops, threads, digests, the cache, observers."""
