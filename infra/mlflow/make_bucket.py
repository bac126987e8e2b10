"""Creates the bucket named by S3_BUCKET if it does not exist; compose.yaml runs it once."""

import os

import boto3

client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)
bucket = os.environ["S3_BUCKET"]
if bucket not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
    client.create_bucket(Bucket=bucket)
    print(f"created {bucket}")
