"""The asynchronous shell around the machines: sources, streams, files."""
