import subprocess

helper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  #! SR009


def lambda_handler(event, context):
    helper.stdin.write(b"hello\n")
    helper.stdin.flush()
    return helper.stdout.readline().decode().strip()
