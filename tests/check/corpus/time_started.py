import datetime
import time

STARTED = time.time()  #! SR004
TODAY = datetime.date.today()  #! SR004
BOOTED = datetime.datetime.now(datetime.timezone.utc)  #! SR004


def lambda_handler(event, context):
    return {"started": BOOTED.isoformat(), "age": time.time() - STARTED, "today": f"{TODAY:%d}"}
