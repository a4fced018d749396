# file: SR022
import http.client
import os
from urllib.parse import urlsplit

connection = http.client.HTTPConnection(urlsplit(os.environ["HTTP_URL"]).netloc, timeout=2)  #! SR005
connection.request("GET", "/config")
connection.getresponse().read()


def lambda_handler(event, context):
    connection.request("GET", "/prices")
    return connection.getresponse().read().decode()
