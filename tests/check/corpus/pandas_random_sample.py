# file: SR020
import numpy as np
import pandas as pd

sample = pd.DataFrame(np.random.rand(8, 2), columns=["x", "y"])  #! SR003


def lambda_handler(event, context):
    return {"mean": sample["x"].mean()}
