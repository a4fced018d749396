"""Run by path (`PYTHON /any/dir/worker/__main__.py`): gives the worker a package name no handler can collide with."""

import os
import sys

here = os.path.dirname(os.path.realpath(__file__))
if sys.path and os.path.realpath(sys.path[0]) == here:
    del sys.path[0]  # else a handler's `import logs` or `import context` would find ours
package = type(sys)("_snapruntime_worker")
package.__path__ = [here]
sys.modules[package.__name__] = package

if __name__ == "__main__":
    from _snapruntime_worker.bootstrap import main  # type: ignore[import-not-found,unused-ignore]

    main()
