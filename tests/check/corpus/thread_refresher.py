import threading

flags = {"beta": False}
wake = threading.Event()


def refresh():
    while not wake.wait(3600):
        flags["beta"] = True


threading.Thread(target=refresh, daemon=True).start()  #! SR008


def lambda_handler(event, context):
    return flags
