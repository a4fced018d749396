"""SQLAlchemy's pool in front of another library's connect, as its manual shows under "Using a Pool Directly"."""
# file: SR021

import os

import psycopg
from sqlalchemy.pool import QueuePool

pool = QueuePool(lambda: psycopg.connect(os.environ["PG_DSN"]), pool_size=2)  #! SR015
pool.connect().close()  # warm it


def lambda_handler(event, context):
    connection = pool.connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]
