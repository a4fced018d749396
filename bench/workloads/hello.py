"""The smallest handler: what is left is the runtime's own time."""

from typing import Any


def lambda_handler(event: dict[str, Any], context: object) -> dict[str, str]:
    return {"message": f"Hello, {event['name']}!"}
