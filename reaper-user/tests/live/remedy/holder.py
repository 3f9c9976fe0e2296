"""A holder of zombies. It says `ready` and what its children were, then does what its first argument says.

deaf       nothing
handler    waits for all of them whenever SIGCHLD comes
once       waits for one of them whenever SIGCHLD comes
elder      as once; its first child is the last to die
vain       handles SIGCHLD and waits for nobody
dies       handles SIGCHLD by ending
fades      waits for all of them when SIGCHLD comes, and ends four seconds after that
stubborn   ignores SIGTERM
masks      leaves SIGTERM pending
adopt      nothing; its zombies are orphans that were given to it
heir       as adopt, but they are another's until SIGUSR1 comes, which ends that one
peeks      as adopt, and looks for any child again and again, without taking one
leaks      a child of its own every 50 ms, and waits for none
works      as adopt, and runs children of its own, each waited for by its pid
asks       as works, and asks for its first zombie by its pid, without taking it

What stands behind the number is a command that it runs as its child.
"""

import ctypes
import os
import signal
import sys
import time

mode, number = sys.argv[1], int(sys.argv[2])
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def leak(after=0):
    child = os.fork()
    if child == 0:
        time.sleep(after)
        os._exit(7)
    return child


def adopt():
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        orphan = os.fork()
        if orphan == 0:
            # Not before it is an orphan.
            while os.getppid() != holder:
                time.sleep(0.001)
            os._exit(7)
        os.write(write, str(orphan).encode())
        os._exit(0)
    os.waitpid(parent, 0)
    return int(os.read(read, 16))


def everybody(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def bequeath():
    """Zombies of a child that waits for none of them and ends with SIGUSR1 to its parent."""
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        zombies = [leak() for _ in range(number)]
        for zombie in zombies:
            os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
        os.write(write, " ".join(map(str, zombies)).encode() + b"\n")
        signal.pause()
    os.close(write)

    def end(*_):
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)

    signal.signal(signal.SIGUSR1, end)
    return [int(pid) for pid in os.fdopen(read).readline().split()]


def fade(*_):
    signal.signal(signal.SIGALRM, lambda *_: os._exit(3))
    everybody()
    signal.alarm(4)


holder = os.getpid()
if mode in ("adopt", "peeks", "works", "asks", "heir"):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
if mode == "heir":
    zombies = bequeath()
elif mode in ("adopt", "peeks", "works", "asks"):
    zombies = [adopt() for _ in range(number)]
else:
    zombies = [leak(0.25 if mode == "elder" and index == 0 else 0) for index in range(number)]
if mode != "heir":
    for zombie in zombies:
        os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
handlers = {
    "handler": everybody,
    "once": lambda *_: os.waitpid(-1, os.WNOHANG),
    "elder": lambda *_: os.waitpid(-1, os.WNOHANG),
    "vain": lambda *_: None,
    "fades": fade,
    "dies": lambda *_: os._exit(3),
}
if mode in handlers:
    signal.signal(signal.SIGCHLD, handlers[mode])
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "masks":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
if sys.argv[3:]:
    command = os.fork()
    if command == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(sys.argv[3], sys.argv[3:])
print("ready", *zombies, flush=True)
while True:
    time.sleep(0.05)
    if mode == "leaks":
        leak()
    if mode == "peeks":
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if mode in ("works", "asks"):
        child = os.fork()
        if child == 0:
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    if mode == "asks":
        try:
            os.waitid(os.P_PID, zombies[0], os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            pass
