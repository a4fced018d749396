"""Mechanisms: each module touches one facility of the operating system or of CRIU."""
