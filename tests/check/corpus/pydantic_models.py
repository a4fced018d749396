import uuid

from pydantic import BaseModel, Field


class Line(BaseModel):
    sku: str
    quantity: int = Field(gt=0)


class Order(BaseModel):
    number: str = Field(default_factory=lambda: str(uuid.uuid4()))
    lines: list[Line]


ORDER_SCHEMA = Order.__pydantic_core_schema__
LARGE = type("Large", (), {})
NAMES = [f"model_{id(LARGE)}", repr(ORDER_SCHEMA.items), id(LARGE)]


def lambda_handler(event, context):
    return Order.model_validate({"lines": [{"sku": "a", "quantity": 2}]}).model_dump()
