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


# Most programs are that deep in functions of their own, and deeper where one calls itself.
DIFFERENT = 30

FUNCTIONS = "".join(
    "def descend_%d(frames, *arguments):\n    return %s(frames - 1, *arguments) if frames else fork(*arguments)\n"
    % (number, "descend_%d" % (number + 1 if number + 1 < DIFFERENT else number))
    for number in range(DIFFERENT)
)
exec(compile(FUNCTIONS, __file__ + ".functions", "exec"))

# With those of this module and of the function that forks.
depth = int(sys.argv[1]) - 3
say(event="ready")
for line in sys.stdin:
    forks, rate = map(int, line.split())
    say(forks=forks, seconds=descend_0(depth, forks, rate))
