import subprocess

VERSION = subprocess.run(["uname", "-s"], capture_output=True, text=True, check=True).stdout.strip()


def lambda_handler(event, context):
    return VERSION
