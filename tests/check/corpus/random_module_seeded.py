import random

random.seed(7)  #! SR016


def lambda_handler(event, context):
    return random.random()
