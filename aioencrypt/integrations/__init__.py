"""Where encrypted data lives: each module needs the library of its name, and the extra that brings it."""
