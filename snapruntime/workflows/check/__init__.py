"""`snapruntime check`: what in a function is not safe to be copied, found without running it and by running it."""
