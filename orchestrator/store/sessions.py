"""What each session of PostgreSQL begins with, whatever defaults server, database and role have.

Behind a pooler in transaction mode (pgbouncer, and services built like it) a session is lent for
one transaction at a time. Nothing may stay in it then: settings hold for a transaction, and
statements have no names on the server. Such a pooler is noticed: the process id that it told when
we connected is not that of the session that answers.
"""

from __future__ import annotations

from typing import Any

import psycopg
from sqlalchemy import Connection

from orchestrator.domain.errors import Unavailable
from orchestrator.store.reasons import READS_ONLY

#: What our sessions call themselves; how we know our own.
APPLICATION = "orchestrator"
#: What no transaction of ours that writes takes, however slow the machine: then PostgreSQL (17
#: and later) ends its session, whoever else is alive. Long reads say that they have no limit.
_LONGEST_TRANSACTION_SECONDS = 900
_HAS_TRANSACTION_TIMEOUT = 170000
#: Sizes and names are the world's: what the database cannot write down it would refuse, late.
_ENCODING = "UTF8"

#: All our statements find few rows among many, by index. PostgreSQL keeps a plan as long as a
#: session lasts; one made while a table was empty would read it from end to end, however large it
#: has become. And it weighs the price of planning again, which is a thousand operators a table,
#: against what a plan for the values at hand would save: too little to plan statements again that
#: take 0.03 ms. Before version 18, what is switched off has a price that makes the compiler (JIT)
#: begin, for statements that take less time than compiling them.
_PLANS = {
    "jit": "off",
    "cpu_operator_cost": "0.1",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "auto",
}
#: How values are written and read, and what must not end a statement of ours.
_MEANINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
}

_BEGIN = """
SELECT pg_backend_pid() AS pid, pg_is_in_recovery() AS standby,
       current_setting('server_encoding') AS encoding,
       (SELECT count(set_config(name, value, false))
        FROM unnest(%(names)s::text[], %(values)s::text[]) AS wanted (name, value)
        WHERE pg_backend_pid() = %(pid)s AND current_setting(name, true) IS NOT NULL) AS kept
"""


class Sessions:
    """Begins the sessions of one process, and knows whether they are lent by a pooler."""

    def __init__(self, idle_seconds: float, *, pooled: bool, standby: bool) -> None:
        """``idle_seconds``: see `Database`. ``pooled``: there is a pooler, even if none is seen.

        ``standby``: a server that takes no writes will do.
        """
        self.pooled = pooled
        self._standby = standby
        idle, probe = round(idle_seconds * 1000), _probe(idle_seconds)
        self._settings = {
            **_PLANS,
            **_MEANINGS,
            # A process that is frozen in a transaction lets go of what that holds after a while;
            # none of ours pauses in one. Where no time-out of the server's reaches,
            # `orchestrator.store.frozen` does.
            "idle_in_transaction_session_timeout": str(idle),
            "transaction_timeout": f"{_LONGEST_TRANSACTION_SECONDS}s",
        }
        #: Of the server's end of the line, which a pooler has for itself.
        self._line = {
            "tcp_keepalives_idle": str(probe),
            "tcp_keepalives_interval": str(probe),
            "tcp_keepalives_count": "3",
            "tcp_user_timeout": str(idle),
        }
        self._local = ""

    def begin(self, raw: psycopg.Connection[Any]) -> None:
        """Make a new connection ready. Raises `Unavailable`, and closes it, if it is of no use."""
        wanted = {**self._settings, **self._line}
        asked = {
            "names": list(wanted),
            "values": list(wanted.values()),
            "pid": 0 if self.pooled else raw.info.backend_pid,
        }
        autocommit, raw.autocommit = raw.autocommit, True
        [row] = raw.execute(_BEGIN, asked, prepare=False).fetchall()
        raw.autocommit = autocommit
        pid, standby, encoding, _ = row
        if standby and not self._standby:
            raw.close()
            raise Unavailable(READS_ONLY)
        if encoding != _ENCODING:
            raw.close()
            raise Unavailable(
                f"the database has the encoding {encoding}, which cannot write every text down: "
                f"create it with ENCODING '{_ENCODING}' TEMPLATE template0"
            )
        if self.pooled or pid != raw.info.backend_pid:
            self._lend(raw)

    def _lend(self, raw: psycopg.Connection[Any]) -> None:
        raw.prepare_threshold = None
        limited = raw.info.server_version >= _HAS_TRANSACTION_TIMEOUT
        wanted = {**self._settings}
        if not limited:
            del wanted["transaction_timeout"]
        del wanted["idle_session_timeout"]  # is not about sessions in a transaction
        self._local = "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in wanted.items())
        self.pooled = True

    def begin_transaction(self, connection: Connection) -> None:
        """Say once more, in a transaction, what the session would have kept."""
        connection.exec_driver_sql(self._local)


def lift_limit(connection: Connection) -> None:
    """Let this transaction take its time; a statement that any connection must be alive for."""
    raw: Any = connection.connection.driver_connection
    limited = raw.info.server_version >= _HAS_TRANSACTION_TIMEOUT
    connection.exec_driver_sql(
        "SELECT set_config('transaction_timeout', '0', true)" if limited else "SELECT 1"
    )


def line_options(idle_seconds: float, given: set[str]) -> dict[str, Any]:
    """What the driver is told about its line to PostgreSQL, but for what the URL says itself.

    On a Unix socket there is nothing to look after, and the kernel is not asked to.
    """
    probe = _probe(idle_seconds)
    wanted = {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": probe,
        "keepalives_interval": probe,
        "keepalives_count": 3,
        "tcp_user_timeout": round(idle_seconds * 1000),
    }
    chosen = {name: value for name, value in wanted.items() if name not in given}
    return {**chosen, "application_name": APPLICATION, "client_encoding": "utf8"}


def _probe(idle_seconds: float) -> int:
    """Seconds between looks whether a silent line still stands; three go unanswered at most."""
    return max(1, round(idle_seconds / 4))
