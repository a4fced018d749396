import uuid

NAMESPACE = uuid.UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
TENANT = uuid.uuid5(NAMESPACE, "example.org")


def lambda_handler(event, context):
    return {"tenant": str(TENANT), "order": str(uuid.uuid4())}
