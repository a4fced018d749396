import asyncio


async def work(number):
    await asyncio.sleep(0)
    return number * 2


def lambda_handler(event, context):
    async def all_of_it():
        return await asyncio.gather(*(work(number) for number in range(3)))

    return asyncio.run(all_of_it())
