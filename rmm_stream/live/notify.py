"""sd_notify: tell systemd READY, WATCHDOG, STATUS, STOPPING. Does nothing where $NOTIFY_SOCKET is not set."""

import os
import socket


def notify(*lines: str) -> bool:
    """Send "READY=1", "STATUS=..." and the like to the service manager. Returns whether there is one.

    A manager that cannot be reached is not worth dying for: systemd itself will notice the silence.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket, written with @ for NUL
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.connect(address)
            manager.sendall("\n".join(lines).encode())
    except OSError:
        return False
    return True
