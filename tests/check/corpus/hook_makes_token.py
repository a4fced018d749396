import secrets

from snapshot_restore_py import register_after_restore

token = secrets.token_hex(16)


@register_after_restore
def renew():
    global token
    token = secrets.token_hex(16)


def lambda_handler(event, context):
    return token
