"""Why a database cannot be used, in a sentence for whoever runs it: a table of what servers,
poolers, libpq and SQLite say. None of it repeats what they say, which may name what is secret.
"""

from __future__ import annotations

import re

_STANDBY = "takes no writes (a standby, or made read-only): wait for it to take them"
#: (SQLSTATEs, or how they begin; words of the message; what is said after "the database").
#: Errors of connecting have words only: libpq keeps their SQLSTATE to itself.
_REASONS: tuple[tuple[str, str, str], ...] = (
    # Who we are.
    (
        "28P01",
        r"password authentication failed|SASL authentication failed|wrong password type",
        "refuses our user or its password: correct database.url",
    ),
    ("", r"no password supplied", "wants a password: give one in database.url"),
    (
        "",
        r"no pg_hba\.conf entry[^\n]*no encryption",
        "takes no connections from here without TLS: add sslmode=require to database.url, or "
        "allow this host in pg_hba.conf",
    ),
    (
        "",
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "takes no connections of our user from here: allow this host in its pg_hba.conf",
    ),
    (
        "28000",
        r'role "[^"]*" does not exist|no such user|is not permitted to log in',
        "does not know our user: create the role, or correct database.url",
    ),
    (
        "3D000",
        r'database "[^"]*" does not exist|no such database',
        "is not on the server: create it, or correct its name in database.url",
    ),
    (
        "",
        r"permission denied for database",
        "does not let our user connect: GRANT CONNECT ON DATABASE to it",
    ),
    # TLS.
    (
        "",
        r"server does not support SSL",
        "offers no TLS, which sslmode in database.url asks for: turn it on at the server",
    ),
    (
        "",
        r"certificate verify failed|root certificate file|server certificate for|SSL error",
        "cannot be reached with TLS: check its certificate, and sslrootcert and sslmode in "
        "database.url",
    ),
    ("", r"invalid \w+ value", "has an option in its URL with a value that libpq does not take"),
    # How many.
    (
        "53300",
        r"too many (clients|connections)|remaining connection slots|no more connections",
        "has too many connections: raise max_connections at the server or its pooler, or lower "
        "database.pool_size",
    ),
    # Whether it takes writes.
    (
        "25006",
        r"session is read-only|server is in hot standby mode|readonly database",
        _STANDBY,
    ),
    # A pooler, which has no server itself.
    (
        "",
        r"unsupported startup parameter",
        "is behind a pooler that lets no start-up options through: take 'options' out of "
        "database.url, or name it in ignore_startup_parameters",
    ),
    (
        "",
        r"server_login_retry|query_wait_timeout|server login|server conn crashed",
        "is behind a pooler that has no connection to it: see the log of the pooler",
    ),
    # Where it is.
    (
        "",
        r"could not translate host name|Name or service not known|No address associated",
        "has a host name that is not known: correct database.url, or the name service",
    ),
    (
        "",
        r"timeout|timed out",
        "does not answer in time: look at its load and at the network",
    ),
    ("57P03", r"starting up|in recovery mode|not yet accepting", "is starting"),
    ("57P01 57P02", r"shutting down|administrator command", "is being shut down"),
    (
        "",
        r"Connection refused|No such file or directory\s+Is the server running",
        "does not listen at the address in database.url: start it, or correct the address",
    ),
    (
        "",
        r"invalid response to SSL negotiation|expected authentication request",
        "is not what listens at the address in database.url: correct that",
    ),
    (
        "",
        r"Permission denied\s+Is the server running",
        "has a socket that our user may not open: give it access",
    ),
    ("", r"No route to host|Network is unreachable", "is out of reach of the network"),
    # What it has.
    ("53100", r"No space left|is full", "has no room left on its disk"),
    ("53200", r"out of memory", "is out of memory"),
    ("58", r"disk I/O", "has trouble with its disk: see its log"),
    ("57014", r"canceling statement", "gave a statement up, by a time limit or by order"),
    # Rights.
    (
        "42501",
        r"permission denied for|must be owner of",
        "does not give our user a right that it needs: make it the owner of the database and of "
        "its schema",
    ),
    # SQLite.
    (
        "",
        r"unable to open",
        "has a file that cannot be opened: it or its directory is missing, or is not this user's",
    ),
    ("", r"not a database|malformed", "has a file that is damaged, or no SQLite database"),
)
_COMPILED = tuple(
    (tuple(states.split()), re.compile(words, re.IGNORECASE), why)
    for states, words, why in _REASONS
)


def reason(state: str | None, message: str) -> str:
    """The sentence for an error with this SQLSTATE, if it has one, and this message."""
    for states, words, why in _COMPILED:
        if (state and states and state.startswith(states)) or words.search(message):
            return _sentence(why)
    return "the connection to the database was lost, or none can be made: see its log, try again"


def _sentence(why: str) -> str:
    return f"the database {why}; then try again"


#: Of a server that is a standby.
READS_ONLY = _sentence(_STANDBY)
