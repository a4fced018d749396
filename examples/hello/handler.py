"""The smallest function: nothing at init, a greeting per event."""


def lambda_handler(event, context):
    print(f"greeting {event.get('name', 'world')}")
    return {"message": f"Hello, {event.get('name', 'world')}!", "request": context.aws_request_id}
