"""Keys whose bytes the program holds."""
