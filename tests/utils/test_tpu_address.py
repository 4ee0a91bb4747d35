"""A TPU that does not answer ends the command in one line."""

import socket
import time

import pytest

from sparse_lib._utils import distribute
from sparse_lib._utils.errors import InputError


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("address", ["grpc://127.0.0.1:{port}", "127.0.0.1:{port}", "", "grpc://127.0.0.1:x"])
def test_a_dead_address_ends_in_one_line(address):
    address, started = address.format(port=free_port()), time.monotonic()
    with pytest.raises(InputError, match="cannot be reached") as raised:
        distribute.make_strategy("tpu", address)
    assert repr(address) in str(raised.value) and "\n" not in str(raised.value)
    assert time.monotonic() - started < 30
