import os

words = open("/etc/hostname")  #! SR006


def lambda_handler(event, context):
    return os.fstat(words.fileno()).st_size >= 0
