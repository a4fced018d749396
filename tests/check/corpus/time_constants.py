import datetime

LAUNCH = datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc)
MAX_AGE = datetime.timedelta(days=3)


def lambda_handler(event, context):
    return (LAUNCH + MAX_AGE).isoformat()
