"""``python -m tests.docs``: write the reference pages that are made from the code."""

from tests.docs.reference import write

write()
