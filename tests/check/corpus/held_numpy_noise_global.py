# file: SR020
import numpy as np

noise = np.random.default_rng().normal(size=16)  #! SR003


def lambda_handler(event, context):
    return {"noise": noise[:2].tolist()}
