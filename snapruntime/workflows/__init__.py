"""Workflows: put mechanisms in order. The life of a snapshot is written here."""
