"""`python check.py SOCKET...`: exit code 0 when HAProxy answers on every stats socket; keepalived's check script runs it.

Standard library only, and little of it: it is started every few seconds in every amphora of a pair.
"""

import os
import socket
import sys


def answers(path: str) -> bool:
    """Whether a HAProxy says something on that socket within two seconds; the path may be longer than an address holds."""
    try:
        os.chdir(os.path.dirname(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(2.0)
            client.connect(os.path.basename(path))
            client.sendall(b"show info\n")
            return bool(client.recv(1))
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if sys.argv[1:] and all(answers(path) for path in sys.argv[1:]) else 1)
