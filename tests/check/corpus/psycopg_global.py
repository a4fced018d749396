"""A connection in a global, as in AWS's RDS tutorial."""
# file: SR021

import os

import psycopg

conn = psycopg.connect(os.environ["PG_DSN"])  #! SR005


def lambda_handler(event, context):
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]
