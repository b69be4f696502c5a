"""Raw master keys: the program holds the key material itself."""
