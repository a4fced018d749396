# file: SR020
import uuid

from snapshot_restore_py import register_after_restore

session = str(uuid.uuid4())
trace = str(uuid.uuid4())  #! SR003


@register_after_restore
def renew():
    global session
    session = str(uuid.uuid4())


def lambda_handler(event, context):
    return {"session": session, "trace": {"ids": [trace]}}
