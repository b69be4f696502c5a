"""Master keys and master key providers."""
