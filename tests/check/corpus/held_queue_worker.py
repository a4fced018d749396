"""A background thread that sends metrics from a queue."""

import queue
import threading

metrics = queue.Queue()
sent = []


def drain():
    while True:
        sent.append(metrics.get())
        metrics.task_done()


worker = threading.Thread(target=drain, name="metrics", daemon=True)
worker.start()  #! SR008


def lambda_handler(event, context):
    metrics.put(1)
    metrics.join()
    return len(sent)
