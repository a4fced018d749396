import random

order = random.Random("fixed")  #! SR002


def lambda_handler(event, context):
    return order.sample(range(10), 3)
