import logging
import logging.handlers
import os

remote = logging.handlers.SocketHandler("127.0.0.1", int(os.environ["TCP_PORT"]))  #! SR005
logger = logging.getLogger("audit")
logger.addHandler(remote)
logger.warning("init is over")  # connects


def lambda_handler(event, context):
    return len(logger.handlers)
