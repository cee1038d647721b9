"""``python -m tests.docs``: write what is made from the code."""

from tests.docs import client

client.write()

from tests.docs import reference  # noqa: E402 - the commands depend on the client's methods

reference.write()
