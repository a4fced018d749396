import http.client
import os
from urllib.parse import urlsplit

connection = http.client.HTTPConnection(urlsplit(os.environ["HTTP_URL"]).netloc, timeout=2)
connection.request("GET", "/config")
CONFIG = connection.getresponse().read().decode()
connection.close()


def lambda_handler(event, context):
    connection.request("GET", "/prices")
    return connection.getresponse().read().decode() + CONFIG
