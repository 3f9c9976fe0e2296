"""Forks a worker before it has imported subprocess; the worker imports it then, and leaks a child.

usage: worker.py LOG

One line of LOG, in the form of leak.py. Ends when its input does.
"""

import os
import sys


def open_browser_0():
    import subprocess

    child, line = subprocess.Popen(["/bin/true"]), sys._getframe().f_lineno
    with open(sys.argv[1], "w") as log:
        log.write("%d open_browser_0 %s %d 0\n" % (child.pid, __file__, line))
    return child


assert "subprocess" not in sys.modules
worker = os.fork()
if worker == 0:
    # The worker ends with the program: it reads from what nobody writes to.
    child = open_browser_0()
    sys.stdin.readline()
    os._exit(0)
sys.stdin.readline()
os.waitpid(worker, 0)
