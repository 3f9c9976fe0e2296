"""Leaks children and says, as JSON in one line, what it leaked; then it does nothing until it is killed.

lines FEW MANY   FEW children at one line and MANY at another one of this file
kinds NUMBER     so many children, each with another name and forked at another line
passing NUMBER   the same; what forked one is forgotten before the next one is, and lies at the same place
"""

import inspect
import json
import os
import sys
import time


def leak():
    line = inspect.currentframe().f_back.f_lineno
    child = os.fork()
    if child == 0:
        os._exit(7)
    return child, line


def few():
    return leak()


def many():
    return leak()


FORK = """
child = os.fork()
if child == 0:
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)
    os._exit(7)
"""


kept = []


def kind(number, keep=kept):
    scope = {"os": os, "name": f"kind{number}"}
    code = compile("\n" * number + FORK, "kinds.py", "exec")
    keep.append(code)
    exec(code, scope)
    return scope["child"], number + 2


if sys.argv[1] == "lines":
    wanted = [int(count) for count in sys.argv[2:4]]
    # Taken in turns, so that neither is the latest for long.
    leaked = []
    while any(wanted):
        for place, function in enumerate((few, many)):
            if wanted[place]:
                wanted[place] -= 1
                leaked.append(function())
elif sys.argv[1] == "passing":
    leaked = [kind(number, []) for number in range(int(sys.argv[2]))]
else:
    leaked = [kind(number) for number in range(int(sys.argv[2]))]
for child, _ in leaked:
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(json.dumps(leaked), flush=True)
while True:
    time.sleep(60)
