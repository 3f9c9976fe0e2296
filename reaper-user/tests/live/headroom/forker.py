"""Forks until it is refused, and goes on trying, as PID 1 of a container.

forker.py leak RATE LOG: children that end at once and are never waited for.
forker.py live RATE LOG: children that stay.
forker.py wait RATE LOG: three that are never waited for, then children that end at once and are.
At the first refusal it writes "refused NANOSECONDS", on the boot clock, to LOG; then how often it was, each time.
"""

import os
import sys
import time

mode, rate, log = sys.argv[1], float(sys.argv[2]), open(sys.argv[3], "w")
refused = 0
begun = time.monotonic()
for number in range(1, 1_000_000):
    try:
        child = os.fork()
        if child == 0:
            if mode == "live":
                time.sleep(3600)
            os._exit(0)
        if mode == "wait" and number > 3:
            os.waitpid(child, 0)
    except BlockingIOError:
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if refused == 0:
            print("refused", now, file=log, flush=True)
        refused += 1
        print("times", refused, file=log, flush=True)
    time.sleep(max(0.0, begun + number / rate - time.monotonic()))
