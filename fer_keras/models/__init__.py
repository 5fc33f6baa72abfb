"""Architectures, their registry, and the exported model."""
