"""A W3C trace parent for what init does, kept and sent on with each event's requests."""
# file: SR020

import os
import urllib.request

trace = {"version": "00", "id": os.urandom(16).hex(), "flags": "01"}  #! SR003


def lambda_handler(event, context):
    parent = f"{trace['version']}-{trace['id']}-{os.urandom(8).hex()}-{trace['flags']}"
    request = urllib.request.Request(os.environ["HTTP_URL"] + "/next", headers={"Traceparent": parent})
    with urllib.request.urlopen(request, timeout=2) as answer:
        return {"trace": trace["id"], "status": answer.status}
