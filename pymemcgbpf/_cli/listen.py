# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The address that a server listens on, and its socket."""

from __future__ import annotations

import argparse
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any

from .._records import Record
from ..errors import MemcgError
from . import command

_BACKLOG = 128
_LAST_PORT = 65535


class Address(Record):
    """Where a server listens.

    Attributes:
        host: a name or an address.
        port: 0 for any that is free.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def address(text: str) -> Address:
    """The type of an option whose value is HOST:PORT; an IPv6 address is in brackets."""
    found = re.fullmatch(r"(?:\[([^][]+)\]|([^][:]+)):([0-9]{1,5})", text, re.ASCII)
    if found is None or int(found[3]) > _LAST_PORT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT, such as 127.0.0.1:10753 or [::1]:10753"
        )
    return Address(found[1] or found[2], int(found[3]))


def listening_socket(at: Address, *, allow_remote: bool) -> socket.socket:
    """A socket that listens.

    Args:
        at: the address.
        allow_remote: whether other machines may connect.

    Raises:
        WrongUsageError: other machines could connect, and may not.
        MemcgError: nothing can listen there.
    """
    try:
        found = socket.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM)
        for *_, place in found:
            if not allow_remote and not _is_loopback(str(place[0])):
                raise command.WrongUsageError(
                    f"{at} is not a loopback address: whoever can connect sees the names of all "
                    "cgroups and containers and what they use, without encryption or a password; "
                    "--allow-remote permits it"
                )
        return _first_that_works([(family, place) for family, *_, place in found])
    except (OSError, UnicodeError) as error:
        if isinstance(error, MemcgError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise MemcgError(
            f"cannot listen on {at}: {reason}",
            remedy="choose another address with --listen",
            errno=getattr(error, "errno", None),
            call="listen",
        ) from error


def _first_that_works(places: Sequence[tuple[int, tuple[Any, ...]]]) -> socket.socket:
    """A socket at the first of several places where that is possible. A name such as localhost can
    have an address of a protocol that this machine does not speak."""
    for number, (family, place) in enumerate(places, 1):
        try:
            made = socket.socket(family, socket.SOCK_STREAM)
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(place)
                made.listen(_BACKLOG)
            except BaseException:
                made.close()
                raise
            return made
        except OSError:
            if number == len(places):
                raise
    raise OSError("the name has no address")


def _is_loopback(text: str) -> bool:
    place = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(place, ipaddress.IPv6Address) and place.ipv4_mapped is not None:
        return place.ipv4_mapped.is_loopback
    return place.is_loopback


def address_of(listener: socket.socket) -> Address:
    """Where a socket listens, with the port that it got."""
    host, port, *_ = listener.getsockname()
    return Address(host, port)
