from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(2)
list(pool.map(abs, [-1, -2]))


def lambda_handler(event, context):
    return list(pool.map(abs, [-3, 4]))
