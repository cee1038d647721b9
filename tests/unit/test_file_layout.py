"""Names become paths and back without two of them ever meeting."""

import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from orchestrator.domain.errors import InvalidName
from orchestrator.domain.names import check_volume_name
from workers.backends.file import layout

ID = "0123456789abcdef" * 2
OTHER = "f" * 32
CHARACTERS = string.ascii_letters + string.digits + "._:/+-"


def is_name(text: str) -> bool:
    try:
        check_volume_name(text)
    except InvalidName:
        return False
    return True


#: Slashes and dots oftener than chance would have them, and names too long for one component.
names = (
    st.one_of(
        st.text(CHARACTERS, min_size=1, max_size=255),
        st.text("/.:a", min_size=1, max_size=255),
        st.text(CHARACTERS, min_size=190, max_size=255),
    )
).filter(is_name)


@given(names)
@example("/" * 255)
@example("." * 255)
@example(".orchestrator")
def test_a_path_gives_back_its_name_and_stays_where_it_belongs(name: str) -> None:
    place = layout.volume_place(name, ID)
    top, lane, *chunks = place.directory
    assert (top, lane) == ("volumes", layout.lane_of(name))
    assert layout.read_place(tuple(chunks), place.file) == (name, ID)
    for part in (*place.directory, place.file):
        assert 0 < len(part.encode()) <= 255
        assert "/" not in part
        assert part not in (".", "..")
    assert all(layout.is_continued(chunk) for chunk in chunks)
    assert not layout.is_continued(place.file)
    assert not (*chunks, place.file)[0].startswith(".")


@given(names, names)
@example("a/b", "a:b")
@example("a" * 200, "a" * 201)
@example("a", "A")
@example("/" * 66 + "x", "/" * 67)
def test_no_two_names_share_a_path(one: str, two: str) -> None:
    assume(one != two)
    assert layout.escape(one) != layout.escape(two)
    first, second = layout.volume_place(one, ID), layout.volume_place(two, ID)
    assert (*first.directory, first.file) != (*second.directory, second.file)
    # No image's path is the directory of another's.
    deeper = (*second.directory, second.file)
    assert (*first.directory, first.file) != deeper[: len(first.directory) + 1]


@given(names)
def test_snapshots_lie_with_their_volume(name: str) -> None:
    place = layout.snapshot_place(name, OTHER, ID)
    assert place.directory[:2] == ("snapshots", ID)
    assert layout.read_place(place.directory[2:], place.file) == (name, OTHER)


@given(st.text(max_size=300))
@example("a%2fb")
@example("%41")
@example("%2E%2E")
@example(".x")
@example("a/b")
def test_only_what_escaping_makes_is_read_back(text: str) -> None:
    name = layout.unescape(text)
    assert name is None or layout.escape(name) == text


@pytest.mark.parametrize(
    "file",
    [
        "vm1.img",
        f"vm1~{ID}",
        f"vm1~{ID.upper()}.img",
        f"vm1~{ID}.img.bak",
        f"~{ID}.img",
        f"a~b~{ID}.img",
        f"%2f~{ID}.img",
        f"vm1~{ID}.img\n",
        f"{'x' * 201}~{ID}.img",
    ],
)
def test_other_files_are_none_of_ours(file: str) -> None:
    assert layout.read_place((), file) is None
