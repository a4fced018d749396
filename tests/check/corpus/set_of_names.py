"""The order of a set differs from process to process; nothing unique is in it."""

NAMES = {"tea", "cake", "coffee", "juice", "water"}


def lambda_handler(event, context):
    return list(NAMES)
