"""A crawler that works and never waits for what it did not start, as PID 1 of a container.

Each tick it runs a command and checks how that ended, and starts a "browser" that starts helpers of its own and is killed: the
helpers are given to PID 1. It writes a line each tick: commands that ended as they should, others, orphans made.
"""

import os
import signal
import subprocess
import sys
import time

HELPERS = 2
log = open(sys.argv[1], "w")
right = wrong = orphans = 0
while True:
    code = right % 200 + 1
    ended = subprocess.run(["/bin/sh", "-c", f"exit {code}"]).returncode
    if ended == code:
        right += 1
    else:
        wrong += 1
    helpers = "sleep 0.2 & " * HELPERS
    browser = subprocess.Popen(
        ["/bin/sh", "-c", helpers + "echo started; wait"], stdout=subprocess.PIPE, start_new_session=True
    )
    started = browser.stdout.readline() == b"started\n"
    os.kill(browser.pid, signal.SIGKILL)
    if started and browser.wait() == -signal.SIGKILL:
        orphans += HELPERS
    else:
        wrong += 1
    browser.stdout.close()
    print(right, wrong, orphans, file=log, flush=True)
    time.sleep(0.2)
