"""Forks below so many frames, as fast as can be or at a pace. The children end at once and are waited for.

usage: forks.py DEPTH

Each line of standard input says how many, and how many a second; 0 is as fast as can be.
"""

import json
import os
import sys
import time


def say(**what):
    print(json.dumps(what), flush=True)


def fork(forks, rate):
    began = time.monotonic()
    for number in range(forks):
        if rate:
            time.sleep(max(0, began + number / rate - time.monotonic()))
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
    return time.monotonic() - began


def descend(frames, *arguments):
    return descend(frames - 1, *arguments) if frames else fork(*arguments)


# With those of this module and of the function that forks.
depth = int(sys.argv[1]) - 3
say(event="ready")
for line in sys.stdin:
    forks, rate = map(int, line.split())
    say(forks=forks, seconds=descend(depth, forks, rate))
