"""The code that runs inside every worker process and is frozen into every snapshot: standard library only, small."""
