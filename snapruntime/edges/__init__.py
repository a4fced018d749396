"""Edges: translate for people and programs; decide nothing."""
