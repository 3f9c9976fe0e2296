"""A gunicorn worker whose requests run children and leave orphans behind."""

import ctypes
import os
import subprocess

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def application(environment, start):
    wanted = int(environment["QUERY_STRING"])
    status = subprocess.run(["sh", "-c", "sleep 0 & exit %d" % wanted]).returncode
    body = b"%d %d\n" % (os.getpid(), status)
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
