"""``python -m tests.docs``: write what is made from the code."""

from tests.docs import client, reference

reference.write()
client.write()
