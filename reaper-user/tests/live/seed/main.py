"""The seed's program in Python: Popen without wait, ten times a second, as PID 1 of a container.

main.py COUNT LOG       starts COUNT children, 100 ms apart, and sleeps
main.py child N LOG     is one of them: appends "pid boottime code" to LOG and exits with the code
"""

import os
import subprocess
import sys
import time


def child(number, path):
    code = number * 7 % 251
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    os.write(log, b"%d %d %d\n" % (os.getpid(), now, code))
    os._exit(code)


if sys.argv[1] == "child":
    child(int(sys.argv[2]), sys.argv[3])

# Popen waits for those that nobody refers to any more, so a program that leaks keeps them.
children = []
for number in range(1, int(sys.argv[1]) + 1):
    words = [sys.executable, "-I", "-S", sys.argv[0], "child", str(number), sys.argv[2]]
    children.append(subprocess.Popen(words))
    time.sleep(0.1)
time.sleep(3600)
