"""A presigned URL made once and kept: it expires an hour after the snapshot."""
# file: SR020
# env: AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE
# env: AWS_SECRET_ACCESS_KEY=not-a-real-secret-key
# file: SR011

import boto3

s3 = boto3.client("s3", region_name="eu-north-1")  #! SR011
UPLOAD = s3.generate_presigned_post("bucket", "key", ExpiresIn=3600)  #! SR003 SR004


def lambda_handler(event, context):
    return UPLOAD["fields"]
