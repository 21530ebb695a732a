"""A proxy that cuts one connection in five after a random number of bytes of the answer.

Usage: proxy.py LISTEN_PORT SERVER_PORT SEED
"""
import asyncio
import random
import sys

LISTEN, SERVER, SEED = (int(word) for word in sys.argv[1:4])
chance = random.Random(SEED)


async def pump(reader, writer, left):
    """Copies bytes until the end, or until `left` of them have passed."""
    while data := await reader.read(65536):
        if left is not None and len(data) >= left:
            writer.write(data[:left])
            await writer.drain()
            return
        if left is not None:
            left -= len(data)
        writer.write(data)
        await writer.drain()


async def serve(reader, writer):
    upstream = None
    try:
        answers, upstream = await asyncio.open_connection("127.0.0.1", SERVER)
        left = chance.randrange(1, 700) if chance.random() < 0.2 else None
        up = asyncio.ensure_future(pump(reader, upstream, None))
        down = asyncio.ensure_future(pump(answers, writer, left))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        down.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
    except OSError:
        pass
    finally:
        for end in (upstream, writer):
            if end is not None:
                end.transport.abort() if end is writer else end.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", LISTEN)
    await server.serve_forever()


asyncio.run(main())
