# file: SR020
import random


class Sampler:
    def __init__(self):
        self.rng = random.Random()  #! SR001

    def draw(self):
        return self.rng.random()


sampler = Sampler()


def lambda_handler(event, context):
    return sampler.draw()
