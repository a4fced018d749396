import boto3

ses = boto3.client("ses", aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="wJalrXUtnFEMI/K7MDENG")  #! SR011


def lambda_handler(event, context):
    return ses.meta.region_name
