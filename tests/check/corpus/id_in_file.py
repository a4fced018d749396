# file: SR020
import pathlib
import uuid

pathlib.Path("/tmp/instance-id").write_text(str(uuid.uuid4()))


def lambda_handler(event, context):
    return pathlib.Path("/tmp/instance-id").exists()
