"""Ready-made hooks for what libraries cannot do by themselves: one module per library, registered by importing it.

    from snapruntime.hooks import postgresql          # in the handler, or
    snapruntime run handler.py --hook postgresql      # without a change to it

A hook finds the library's living objects itself, wherever the handler keeps them, and mends them in place. It imports
no library: where the handler uses none of it, the hook does nothing.
"""
