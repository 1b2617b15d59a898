"""Carries Ethernet frames between two taps, as badly as it is told to.

    link.py TAP TAP [loss=SHARE] [duplicate=SHARE] [reorder=SHARE] [delay=SECONDS] [down=SECONDS/PERIOD]

`reorder` is the share of frames that are held back for up to ten milliseconds; `delay` is one way;
`down` cuts the link for the first seconds of each period. Each fault that a frame meets is named once
on standard output.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x2, 0x1000
HELD_BACK = 0.01


def tap(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return file


def main():
    faults = dict(loss="0", duplicate="0", reorder="0", delay="0", down="0/1")
    faults.update(word.split("=") for word in sys.argv[3:])
    down, period = map(float, faults.pop("down").split("/"))
    loss, duplicate, reorder, delay = (float(faults[name]) for name in ("loss", "duplicate", "reorder", "delay"))
    here, there = tap(sys.argv[1]), tap(sys.argv[2])
    other = {here: there, there: here}
    chance = random.Random(1)
    queue, count, begin = [], 0, time.monotonic()
    met = set()

    def meets(fault):
        if fault not in met:
            met.add(fault)
            print(fault, flush=True)

    print("carrying", flush=True)
    while True:
        wait = max(0, queue[0][0] - time.monotonic()) if queue else None
        for file in select.select([here, there], [], [], wait)[0]:
            frame = os.read(file, 65536)
            now = time.monotonic()
            if (now - begin) % period < down:
                meets("down")
                continue
            copies = 1
            if chance.random() < duplicate:
                meets("duplicate")
                copies = 2
            for _ in range(copies):
                if chance.random() < loss:
                    meets("loss")
                    continue
                due = now + delay
                if delay:
                    meets("delay")
                if chance.random() < reorder:
                    meets("reorder")
                    due += chance.random() * HELD_BACK
                count += 1
                heapq.heappush(queue, (due, count, other[file], frame))
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, file, frame = heapq.heappop(queue)
            try:
                os.write(file, frame)
            except OSError:
                # The interface is down, or its queue is full.
                pass


main()
