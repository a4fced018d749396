import array
import mmap
import struct

TABLE = array.array("d", (number / 7 for number in range(512)))
pages = mmap.mmap(-1, 8192)
pages[:8] = struct.pack("<d", TABLE[3])


def lambda_handler(event, context):
    return struct.unpack("<d", pages[:8])[0]
