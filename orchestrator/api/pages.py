"""``/docs``: the description of the service as one page, without scripts and from here alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

Document = Mapping[str, Any]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { border-bottom: 1px solid #ccc; margin-top: 2.5rem }
summary { cursor: pointer; padding: .25rem 0 }
summary code { font-weight: 600 }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700 }
details { border-bottom: 1px solid #eee }
details > div { margin: 0 0 1rem 4.5rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; vertical-align: top; padding: .15rem .75rem .15rem 0 }
pre { background: #f6f6f6; padding: .5rem; overflow: auto }
@media (prefers-color-scheme: dark) {
  body { background: #111; color: #ddd } a { color: #8bf } pre { background: #222 }
  h2 { border-color: #444 } details { border-color: #222 }
}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: What the page may load: its own style, and nothing else from anywhere.
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'"

_CODE = re.compile(r"`([^`]+)`")


def page(document: Document) -> str:
    """The page for an OpenAPI document."""
    by_tag: dict[str, list[str]] = defaultdict(list)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation.get("tags", ["other"])[0]
            by_tag[tag].append(_operation(document, method, path, operation))
    title = escape(document["info"]["title"])
    links = " · ".join(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in by_tag)
    parts = [
        f'<h2 id="{escape(tag)}">{escape(tag)}</h2>{"".join(operations)}'
        for tag, operations in by_tag.items()
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style></head><body><h1>{title} {escape(document['info']['version'])}"
        f"</h1>{_text(document['info'].get('description', ''))}"
        '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"<p>{links}</p>{''.join(parts)}</body></html>"
    )


def _operation(document: Document, method: str, path: str, operation: Mapping[str, Any]) -> str:
    return (
        f'<details><summary><span class="method">{escape(method.upper())}</span> '
        f"<code>{escape(path)}</code> {escape(operation.get('summary', ''))}</summary><div>"
        + _text(operation.get("description", ""))
        + _table(
            (f"{one['name']} ({one['in']})", one.get("description", ""))
            for one in operation.get("parameters", ())
        )
        + "".join(
            f"<p>Body, <code>{escape(kind)}</code>:</p>{_schema(document, content['schema'])}"
            for kind, content in operation.get("requestBody", {}).get("content", {}).items()
        )
        + "<p>Answers:</p>"
        + _table(
            (status, answer.get("description", ""))
            for status, answer in operation["responses"].items()
        )
        + "</div></details>"
    )


def _schema(document: Document, schema: Mapping[str, Any]) -> str:
    """A schema with what it refers to put in its place, once."""
    reference = schema.get("$ref", "").rpartition("/")[2]
    shown = document["components"]["schemas"].get(reference, schema)
    if "oneOf" in shown:
        members = [str(one.get("$ref", "")).rpartition("/")[2] for one in shown["oneOf"]]
        return f"<p>One of {escape(', '.join(members))}.</p>"
    return f"<pre>{escape(json.dumps(shown, indent=2))}</pre>"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = [f"<tr><td><code>{escape(a)}</code></td><td>{_inline(b)}</td></tr>" for a, b in rows]
    return f"<table>{''.join(cells)}</table>" if cells else ""


def _text(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))
