"""Connects at the first use, and again when the connection is gone."""

import os

import psycopg

_conn = None


def connection():
    global _conn
    if _conn is None or _conn.closed:
        _conn = psycopg.connect(os.environ["PG_DSN"])
    return _conn


def lambda_handler(event, context):
    return connection().execute("SELECT 1").fetchone()[0]
