import sqlite3

db = sqlite3.connect(":memory:", check_same_thread=False)
db.execute("CREATE TABLE price (name TEXT, cents INT)")
db.executemany("INSERT INTO price VALUES (?, ?)", [("tea", 250), ("cake", 420)])


def lambda_handler(event, context):
    return db.execute("SELECT sum(cents) FROM price").fetchone()[0]
