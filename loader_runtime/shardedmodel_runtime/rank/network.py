"""Which network interface carries an address: gloo asks for a name, a pod knows its IP."""

from __future__ import annotations

import fcntl
import socket
import struct

SIOCGIFADDR = 0x8915
"""Linux: give the IPv4 address of an interface (netdevice(7))."""
_REQUEST = struct.Struct("16s24x")
"""``struct ifreq``: the interface's name, then room for the answer."""
_ANSWER = slice(20, 24)
"""Where the answer's ``sockaddr_in`` holds the four bytes of the address."""


def interface_of(address: str) -> str:
    """Give the name of the interface with this IPv4 address; empty when none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, SIOCGIFADDR, _REQUEST.pack(name.encode()))
            except OSError:
                continue  # an interface without an IPv4 address
            if socket.inet_ntoa(answer[_ANSWER]) == address:
                return name
    return ""
