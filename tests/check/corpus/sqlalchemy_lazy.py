"""The engine alone connects to nothing."""

from sqlalchemy import create_engine, text

engine = create_engine("sqlite://")


def lambda_handler(event, context):
    with engine.connect() as connection:
        return connection.execute(text("SELECT 1")).scalar()
