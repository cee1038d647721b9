"""The engine against a simple model of it, under random use and random accidents."""

import pytest

pytest.register_assert_rewrite("tests.model.checks", "tests.model.history", "tests.model.machine")
