# file: SR020
import uuid


class Worker:
    id = uuid.uuid4()  #! SR003
    queue = "orders"


def lambda_handler(event, context):
    return {"worker": str(Worker.id), "queue": Worker.queue}
