import random

random.random()
secure = random.SystemRandom()


def lambda_handler(event, context):
    return [random.random(), secure.random(), random.choice("abc")]
