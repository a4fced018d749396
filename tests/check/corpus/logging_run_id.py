"""A filter that adds an id of the process to each line, as the logging cookbook shows for the context of a server."""
# file: SR020

import logging
import uuid


class RunId(logging.Filter):
    def __init__(self):
        super().__init__()
        self.run_id = uuid.uuid4().hex[:12]  #! SR003

    def filter(self, record):
        record.msg = f"run={self.run_id} {record.msg}"
        return True


logger = logging.getLogger("app")
logger.setLevel("INFO")
run_id = RunId()
logger.addFilter(run_id)


def lambda_handler(event, context):
    logger.info("handled an event")
    return "ok"
