# file: SR020
import numpy as np

rng = np.random.default_rng()  #! SR001


def lambda_handler(event, context):
    return rng.integers(1 << 30, size=3).tolist()
