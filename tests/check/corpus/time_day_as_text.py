import datetime

from snapshot_restore_py import register_after_restore

PREFIX = datetime.date.today().isoformat()  #! SR004
YEAR = datetime.datetime.now().year  #! SR004
partition = datetime.date.today().isoformat()


@register_after_restore
def turn_over():
    global partition
    partition = datetime.date.today().isoformat()


def lambda_handler(event, context):
    return {"key": f"{PREFIX}/{partition}", "year": YEAR}
