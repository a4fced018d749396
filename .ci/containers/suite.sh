#!/bin/sh
# Inside the container: run pytest on a copy of the checkout in /src, with the snapruntime that the image has installed.
set -eu
mkdir -p /checkout
cd /src
tar c --exclude=./.git --exclude=./.venv --exclude=./build --exclude='*.egg-info' --exclude=__pycache__ . | tar x -C /checkout
cd /checkout
installed=$(cd / && python3 -c 'import os, snapruntime; print(os.path.dirname(snapruntime.__file__))')
# What is tested is what is installed, byte for byte; the reports of earlier runs are in no package.
diff --recursive --exclude=__pycache__ --exclude=results snapruntime "$installed"
exec env CI=true python3 -m pytest -q -p no:cacheprovider "$@"
