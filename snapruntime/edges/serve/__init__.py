"""`snapruntime serve`: AWS Lambda's HTTP API, so that boto3 and the AWS CLI work with a different endpoint URL only."""
