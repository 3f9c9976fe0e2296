"""A subreaper whose descendants fork one another and die; the youngest is left to it and is never waited for.

Each says who it is: a line with its name in the family, its pid, its start in clock ticks.
"""

import ctypes
import os
import sys
import threading

PR_SET_CHILD_SUBREAPER = 36


def say(name):
    with open("/proc/self/stat", "rb") as file:
        stat = file.read()
    ticks = stat[stat.rindex(b")") + 2 :].split()[19].decode()
    with open(sys.argv[1], "a") as log:
        log.write(f"{name} {os.getpid()} {ticks}\n")


def forked(name, live):
    """Forks one that lives by `live`, and says its pid."""
    pid = os.fork()
    if pid == 0:
        say(name)
        live()
        os._exit(0)
    return pid


def from_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def child():
    """The youngest: dies when all above it are dead."""
    os.read(gate, 1)


def mother():
    # One thread forks, another one is the last to die.
    from_thread(lambda: forked("child", child))


def grandmother():
    # She outlives her own child, who leaves one of hers behind: what she has is no child any more, but a descendant.
    os.waitpid(forked("mother", mother), 0)


gate, hold = os.pipe()
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
say("ancestor")
os.waitpid(forked("grandmother", grandmother), 0)
os.write(hold, b"x")
say("done")
sys.stdin.readline()
