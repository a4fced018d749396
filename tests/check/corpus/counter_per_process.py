"""State that the handler itself changes."""

calls = 0
seen = {}


def lambda_handler(event, context):
    global calls
    calls += 1
    seen[context.aws_request_id] = calls
    return {"calls": calls, "request": context.aws_request_id}
