import logging

logger = logging.getLogger()
logger.setLevel(logging.INFO)
log = logging.getLogger(__name__)
log.info("loaded")


def lambda_handler(event, context):
    log.info("event with %d keys", len(event))
    return "ok"
