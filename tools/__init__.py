"""Programs that write documentation and tables."""
