# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The address that a server listens on."""

from __future__ import annotations

import argparse
import errno
import os
import socket
from typing import Any

import pytest

from pymemcgbpf import MemcgError
from pymemcgbpf._cli import listen
from pymemcgbpf._cli.command import WrongUsageError
from pymemcgbpf._cli.listen import Address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9753", Address("127.0.0.1", 9753)),
        ("[::1]:0", Address("::1", 0)),
        ("localhost:65535", Address("localhost", 65535)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: Address) -> None:
    assert listen.address(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "9753", ":9753", "localhost", "localhost:", "localhost:http", "localhost:65536"),
        *("[]:1", "::1:80", "[::1]", "[::1:80", "[[::1]]:1"),
        *("localhost:-1", "localhost:٣", "localhost:80\n"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not HOST:PORT, such as 127\.0\.0\.1"):
        listen.address(text)


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_needs_no_permission(host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("there is no IPv6")
    with listen.listening_socket(Address(host, 0), allow_remote=False) as made:
        at = listen.address_of(made)
        assert at.port > 0
        with socket.create_connection((at.host, at.port), timeout=10):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1", "fe80::1"])
def test_other_addresses_need_permission(host: str) -> None:
    with pytest.raises(WrongUsageError) as caught:
        listen.listening_socket(Address(host, 80), allow_remote=False)
    said = str(caught.value)
    assert said.startswith(f"{Address(host, 80)} is not a loopback address: whoever can connect")
    assert "--allow-remote" in said


def test_a_name_with_any_address_beyond_loopback_needs_permission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = [("127.0.0.1", 80), ("192.0.2.1", 80)]

    def resolve(*_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(WrongUsageError, match="name:80 is not a loopback address"):
        listen.listening_socket(Address("name", 80), allow_remote=False)


def test_all_addresses_with_permission() -> None:
    with listen.listening_socket(Address("0.0.0.0", 0), allow_remote=True) as made:
        assert listen.address_of(made).host == "0.0.0.0"


def test_an_address_that_is_in_use() -> None:
    with listen.listening_socket(Address("127.0.0.1", 0), allow_remote=False) as first:
        at = listen.address_of(first)
        with pytest.raises(MemcgError) as caught:
            listen.listening_socket(at, allow_remote=False)
    assert (
        str(caught.value)
        == f"cannot listen on {at}: Address already in use: choose another address with --listen"
    )
    assert (caught.value.errno, caught.value.call) == (errno.EADDRINUSE, "listen")
    listen.listening_socket(at, allow_remote=False).close()  # and at once again


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", os.strerror(errno.EADDRNOTAVAIL)), ("no.such.name.invalid", ""), ("a" * 99, "")],
)
def test_an_address_that_this_machine_does_not_have(host: str, reason: str) -> None:
    with pytest.raises(MemcgError, match=f"^cannot listen on {host}:9: {reason}"):
        listen.listening_socket(Address(host, 9), allow_remote=True)


def test_a_port_that_needs_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    class Refusing(socket.socket):
        bind = refuse

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(
        MemcgError, match=r"^cannot listen on 127\.0\.0\.1:80: Permission denied: choose "
    ):
        listen.listening_socket(Address("127.0.0.1", 80), allow_remote=False)


def test_the_next_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(socket.AF_INET, ("192.0.2.1", 0)), (socket.AF_INET, ("127.0.0.1", 0))]
    listen._first_that_works(places).close()
    with pytest.raises(OSError, match="no address"):
        listen._first_that_works([])
