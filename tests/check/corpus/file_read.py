import json
import pathlib

HERE = pathlib.Path(__file__)
with HERE.open() as file:
    LINES = sum(1 for _ in file)
TEXT = open(__file__).read()


def lambda_handler(event, context):
    return json.dumps([LINES, len(TEXT)])
