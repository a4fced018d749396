import asyncio

loop = asyncio.new_event_loop()  #! SR010


async def work():
    await asyncio.sleep(0)
    return "done"


def lambda_handler(event, context):
    return loop.run_until_complete(work())
