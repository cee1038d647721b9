"""What a database's URL may say, and how it is read; mistakes are told without repeating it."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from psycopg.pq import Conninfo
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from orchestrator.domain.errors import InvalidInput

FIELD = "database.url"
_FORMS = "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_PARTS = re.compile(r"(?P<scheme>[^:/]+)://(?P<user>[^@/]*@)?(?P<hosts>[^/?]*)(?P<rest>.*)")
#: Names of PostgreSQL that are in use.
_POSTGRESQL = {"postgresql", "postgres"}
#: Ours: whether server-side prepared statements are used. Others' names for the same.
_PREPARING = "prepare_threshold"
_NEVER = {"0", "none"}
_OTHERS = {
    "pgbouncer",
    "prepared_statement_cache_size",
    "prepared_statements",
    "statement_cache_size",
}


def parse(url: str) -> URL:
    """The URL as SQLAlchemy has it. Raises `InvalidInput` with what to write instead.

    Several servers may stand one after the other, as libpq takes them: ``a:5432,b:5432``. Unless
    the URL says otherwise, the one that takes writes is used.
    """
    found = _PARTS.fullmatch(url)
    if found is None:
        raise InvalidInput(f"this is no URL of a database: {_FORMS}", field=FIELD)
    kind = found["scheme"].partition("+")[0]
    hosts = found["hosts"].split(",")
    try:
        if kind in _POSTGRESQL:
            parsed = make_url(f"postgresql://{found['user'] or ''}{hosts[0]}{found['rest']}")
            if len(hosts) > 1:
                parsed = _of_several(parsed, hosts)
            _check_options(parsed)
            return parsed.set(drivername="postgresql+psycopg")
        if kind == "sqlite":
            return _of_a_file(make_url(url))
    except (ArgumentError, ValueError):
        raise InvalidInput(
            "this URL of a database cannot be read: special characters in its password must be "
            f"percent-encoded, ports be numbers; {_FORMS}",
            field=FIELD,
        ) from None
    raise InvalidInput(f"databases of the kind {kind!r} are not supported: {_FORMS}", field=FIELD)


def file_of(url: str) -> Path | None:
    """The file of a SQLite database; None for another kind."""
    parsed = parse(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    return Path(parsed.database) if is_sqlite and parsed.database else None


def prepares(parsed: URL) -> bool:
    """Whether the URL leaves server-side prepared statements to us."""
    return _PREPARING not in parsed.query


def without_ours(parsed: URL) -> URL:
    """The URL as libpq knows it."""
    return parsed.difference_update_query([_PREPARING])


def _of_several(parsed: URL, hosts: list[str]) -> URL:
    names, ports = [], []
    for host in hosts:
        one = make_url(f"postgresql://{host}")
        names.append(one.host or "")
        ports.append(str(one.port or ""))
    options = {"host": ",".join(names), "port": ",".join(ports)}
    if "target_session_attrs" not in parsed.query:
        options["target_session_attrs"] = "read-write"
    return parsed.set(host="", port=None).update_query_dict(options)


def _check_options(parsed: URL) -> None:
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, value in parsed.query.items():
        if name == _PREPARING:
            if str(value).lower() not in _NEVER:
                raise InvalidInput(
                    f"{_PREPARING} can only be turned off, with {_PREPARING}=0: leave it out "
                    "otherwise",
                    field=FIELD,
                )
        elif name in _OTHERS:
            raise InvalidInput(
                f"the URL of the database has an option {name!r}, which is another library's: "
                "leave it out. A pooler is noticed; where it is not, write "
                f"{_PREPARING}=0",
                field=FIELD,
            )
        elif name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "it takes those of libpq"
            raise InvalidInput(
                f"the URL of the database has an unknown option {name!r}: {hint}", field=FIELD
            )


def _of_a_file(parsed: URL) -> URL:
    if not parsed.database or parsed.database == ":memory:":
        raise InvalidInput(
            "SQLite needs a file, since several processes share it: sqlite:///PATH", field=FIELD
        )
    if parsed.host or parsed.query:
        raise InvalidInput(
            "the URL of a SQLite database is sqlite:///PATH (four slashes for a path from the "
            "root) without options",
            field=FIELD,
        )
    return parsed
