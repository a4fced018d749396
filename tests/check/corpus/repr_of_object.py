class Box:
    pass


box = Box()


def lambda_handler(event, context):
    print("using", box)
    return repr(box)
