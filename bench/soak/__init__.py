"""Soak: many invocations while things are killed, stopped, filled up and damaged around them; nothing may get lost."""
