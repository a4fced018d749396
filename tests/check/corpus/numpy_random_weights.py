import numpy as np

_rs = np.random.RandomState()  #! SR001
weights = _rs.normal(size=(4, 4))  #! SR003


def lambda_handler(event, context):
    return weights.shape
