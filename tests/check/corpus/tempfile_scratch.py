import os
import tempfile

SCRATCH = tempfile.mkdtemp(prefix="render-")  #! SR007


def lambda_handler(event, context):
    return os.listdir(SCRATCH)
