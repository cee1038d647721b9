"""What an error of the database means: that a connection is gone, that the database is away,
that the transaction may be repeated, or that the rows themselves cannot be stored."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from orchestrator.store.tables import PROMISED_ABOVE_LIMIT

#: The server has ended a session that waited too long for its process in a transaction, or
#: whose transaction took too long (25P03 and 25P04; psycopg calls them internal errors).
IDLE_ENDED, TRANSACTION_ENDED = "25P03", "25P04"
#: The server takes no writes (any more): a standby, or one that was told so.
READ_ONLY = "25006"
#: SQLSTATEs after which a session is of no use, whether or not its line is still there.
_GONE = {IDLE_ENDED, TRANSACTION_ENDED, READ_ONLY, "57P01", "57P02", "57P03", "57P04", "57P05"}
#: Those of `_GONE` that say nothing of the other sessions.
_ALONE = {IDLE_ENDED, TRANSACTION_ENDED, "57P05"}
#: Those that say for sure that nothing was committed, also where a commit was on its way.
_NOT_COMMITTED = {IDLE_ENDED, READ_ONLY}
#: SQLSTATEs that mean "the same transaction may succeed when repeated".
_REPEATABLE = {"40001", "40P01", "55P03"}
#: Classes of SQLSTATEs: connection, out of resources, operator intervention, system error.
_AWAY = ("08", "53", "57", "58")
#: Classes that are about what is stored: cardinality, data, constraints, limits of a row.
_OF_ROWS = ("21", "22", "23", "54")
#: A right is missing; a table, column, function or view is.
_NO_RIGHT = "42501"
_MISSING = {"42P01", "42703", "42883", "3F000"}
#: What SQLite says when its file cannot be used.
_SQLITE_AWAY = ("unable to open", "disk I/O", "is full", "readonly", "malformed", "not a database")


def sqlstate(error: BaseException | None) -> str | None:
    """PostgreSQL's code of an error, by itself or wrapped by SQLAlchemy."""
    original = error.orig if isinstance(error, DBAPIError) else error
    found: str | None = getattr(original, "sqlstate", None)
    return found


def ends_session(error: BaseException | None) -> bool:
    """Whether a session must not be used again after this error."""
    return sqlstate(error) in _GONE


def ends_only_this_session(error: BaseException | None) -> bool:
    """Whether the other sessions are as good as before."""
    return sqlstate(error) in _ALONE


def was_not_committed(error: BaseException | None) -> bool:
    """Whether the transaction that it came in has for sure had no effect."""
    return sqlstate(error) in _NOT_COMMITTED


def is_away(error: DBAPIError) -> bool:
    """Whether the connection is gone, or the database out of reach, shutting down, or out of
    room: nothing that was asked is at fault."""
    if isinstance(error.orig, sqlite3.Error):
        return any(cause in str(error.orig) for cause in _SQLITE_AWAY)
    if error.connection_invalidated or ends_session(error):
        return True
    state = sqlstate(error)
    if state is None:
        return isinstance(error.orig, ConnectionError) or _is_of_the_line(error)
    return state[:2] in _AWAY


def lacks_a_right(error: DBAPIError) -> bool:
    """Whether our user may not do this in the database."""
    return sqlstate(error) == _NO_RIGHT


def is_of_the_schema(error: DBAPIError) -> bool:
    """Whether something that a statement names is not there."""
    if isinstance(error.orig, sqlite3.Error):
        return "no such" in str(error.orig) or "has no column" in str(error.orig)
    return sqlstate(error) in _MISSING


def _is_of_the_line(error: DBAPIError) -> bool:
    return type(error).__name__ in ("OperationalError", "InterfaceError")


def is_repeatable(error: BaseException) -> bool:
    """Whether the same transaction may succeed when it is repeated as a whole."""
    if isinstance(error, IntegrityError):
        return PROMISED_ABOVE_LIMIT in str(error.orig)
    if not isinstance(error, OperationalError):
        return False
    return sqlstate(error) in _REPEATABLE or "database is locked" in str(error.orig)


def is_of_the_rows(error: BaseException) -> bool:
    """Whether what was to be stored is at fault, and would be again: a value that does not fit,
    a constraint; anything that is no error of a database."""
    if not isinstance(error, DBAPIError):
        return True
    if isinstance(error.orig, sqlite3.Error):
        return not isinstance(error.orig, sqlite3.OperationalError)
    state = sqlstate(error)
    if state is None:
        return not is_away(error)  # the driver could not even send it
    # XX000: a value that PostgreSQL itself finds too large says no more than that.
    return state[:2] in _OF_ROWS or state == "XX000"
