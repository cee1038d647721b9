"""What a browser makes of a page: its elements, links, forms and words; and what is wrong in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

#: Elements that have no end (HTML).
_VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


@dataclass
class Element:
    """An element with its attributes; ``text`` is all that is written inside."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None
    text: str = ""

    def within(self, tag: str) -> Element | None:
        """The nearest element of this kind that it is in."""
        above = self.parent
        while above is not None and above.tag != tag:
            above = above.parent
        return above


@dataclass
class Form:
    """A form as it would be sent if nobody filled anything in."""

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """A page that was read. ``problems`` says where it is not well formed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.elements: list[Element] = []
        self.problems: list[str] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        self.problems += [f"<{left.tag}> is never closed" for left in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) < len(names):
            self.problems.append(f"<{tag}> has an attribute twice: {names}")
        attributes = {name: value or "" for name, value in attrs}
        made = Element(tag, attributes, self._open[-1] if self._open else None)
        self.elements.append(made)
        if tag not in _VOID:
            self._open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1].tag != tag:
            inner = self._open[-1].tag if self._open else "nothing"
            self.problems.append(f"</{tag}> ends <{inner}>")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """The elements of this kind with these attributes."""
        return [
            one
            for one in self.elements
            if one.tag == tag
            and all(one.attributes.get(k.strip("_")) == v for k, v in attributes.items())
        ]

    @property
    def links(self) -> set[str]:
        """The addresses that it leads to."""
        return {one.attributes["href"] for one in self.all("a")}

    @property
    def text(self) -> str:
        """What is written in its main part, with single spaces."""
        return " ".join(self.all("main")[0].text.split())

    def form(self, ending: str) -> Form:
        """The form whose action ends so."""
        [found] = [one for one in self.all("form") if one.attributes["action"].endswith(ending)]
        inside = [one for one in self.all("input") if one.within("form") is found]
        fields = {one.attributes["name"]: one.attributes.get("value", "") for one in inside}
        return Form(found.attributes["method"], found.attributes["action"], fields)

    def has_form(self, ending: str) -> bool:
        """Whether there is such a form."""
        return any(one.attributes["action"].endswith(ending) for one in self.all("form"))

    def wrongs(self) -> list[str]:
        """What is wrong: in the HTML, for those who do not see, and for the policy."""
        found = list(self.problems)
        ids = [one.attributes["id"] for one in self.elements if "id" in one.attributes]
        found += [f"id {one} is there twice" for one in set(ids) if ids.count(one) > 1]
        labelled = {one.attributes.get("for") for one in self.all("label")}
        for one in [*self.all("input"), *self.all("select"), *self.all("textarea")]:
            is_seen = one.attributes.get("type") != "hidden"
            if is_seen and one.attributes.get("id") not in labelled:
                found.append(f"no label for {one.attributes}")
        for one in self.elements:
            for name in ("aria-labelledby", "aria-describedby"):
                if name in one.attributes and one.attributes[name] not in ids:
                    found.append(f"{name} of <{one.tag}> names nothing: {one.attributes[name]}")
            if "style" in one.attributes:
                found.append(f"<{one.tag}> has a style of its own")
            found += [f"<{one.tag}> has {a}" for a in one.attributes if a.startswith("on")]
        found += ["there is a style in it"] * len(self.all("style"))
        for one in self.all("script"):
            if one.text.strip() or "src" not in one.attributes:
                found.append("there is a script in it")
        for tag in ("main", "h1", "title", "header", "footer"):
            # Parts of pictures have titles, too.
            there = [one for one in self.all(tag) if one.within("svg") is None]
            if len(there) != 1:
                found.append(f"{len(there)} of <{tag}>")
        found += [
            f"a header cell without a scope: {one.text}"
            for one in self.all("th")
            if "scope" not in one.attributes
        ]
        levels = [int(one.tag[1]) for one in self.elements if one.tag in ("h1", "h2", "h3")]
        if any(later > earlier + 1 for earlier, later in pairwise(levels)):
            found.append(f"headings skip a level: {levels}")
        found += ["a link without words"] * sum(not one.text.strip() for one in self.all("a"))
        return found
