import os

import psycopg
from snapshot_restore_py import register_after_restore, register_before_snapshot

conn = psycopg.connect(os.environ["PG_DSN"])


@register_before_snapshot
def disconnect():
    conn.close()


@register_after_restore
def connect():
    global conn
    conn = psycopg.connect(os.environ["PG_DSN"])


def lambda_handler(event, context):
    return conn.execute("SELECT 1").fetchone()[0]
