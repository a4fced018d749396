import numpy as np

rng = np.random.default_rng(seed=1234)  #! SR002


def lambda_handler(event, context):
    return rng.normal(size=2).round(3).tolist()
