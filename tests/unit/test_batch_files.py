"""Batch files: what becomes a job, and which row and column an error names."""

from pathlib import Path

import pytest

from orchestrator.cli.batch_files import BatchFile, read_batch, read_csv, read_json, read_ndjson
from orchestrator.domain.errors import (
    InvalidInput,
    InvalidName,
    InvalidSize,
    MalformedBody,
    MissingField,
    Problem,
    UnknownAction,
    UnknownField,
    UnknownParameter,
    UnknownVolume,
)

FLEET = """\
ref,action,backend,volume,snapshot,depends_on,priority,size,metadata.owner,wipe
a,volume.create,fast,vm1,,,5,10G,billing,
b,volume.grow,fast,vm1,,a,,20G,,
,snapshot.create,fast,vm1,monday,"a, b",-3,,,
,volume.remove,fast,old,,,,,,true
"""


def test_a_table_becomes_jobs() -> None:
    batch = read_csv(FLEET)
    assert batch.jobs == [
        {
            "ref": "a",
            "action": "volume.create",
            "backend": "fast",
            "volume": "vm1",
            "priority": 5,
            "params": {"size": "10G", "metadata": {"owner": "billing"}},
        },
        {
            "ref": "b",
            "action": "volume.grow",
            "backend": "fast",
            "volume": "vm1",
            "depends_on": ["a"],
            "params": {"size": "20G"},
        },
        {
            "action": "snapshot.create",
            "backend": "fast",
            "volume": "vm1",
            "snapshot": "monday",
            "depends_on": ["a", "b"],
            "priority": -3,
            "params": {},
        },
        {"action": "volume.remove", "backend": "fast", "volume": "old", "params": {"wipe": True}},
    ]
    assert batch.places == ["row 2", "row 3", "row 4", "row 5"]


HEAD = "action,backend,volume,size\n"
GOOD = "volume.create,fast,vm1,10G\n"
JOB = {
    "action": "volume.create",
    "backend": "fast",
    "volume": "vm1",
    "params": {"size": "10G"},
}


@pytest.mark.parametrize(
    "text",
    [
        HEAD + GOOD,
        (HEAD + GOOD).replace("\n", "\r\n"),
        (HEAD + GOOD).replace(",", ";"),
        (HEAD + GOOD).replace(",", "\t"),
        HEAD + GOOD + "\n,,,\n",
        "sep=;\r\n" + (HEAD + GOOD).replace(",", ";").replace("\n", "\r\n"),
        '"sep=|"\n' + (HEAD + GOOD).replace(",", "|"),
        "\n,,,\n" + HEAD + GOOD,
        HEAD.title() + GOOD,
        HEAD.upper() + GOOD,
        HEAD + '"volume.create","fast","vm1","10G"\n',
        HEAD + " volume.create , fast , vm1 , 10G \n",
        "action,backend,volume,size,,\nvolume.create,fast,vm1,10G,,\n",
        (HEAD + GOOD).rstrip(),
    ],
)
def test_what_spreadsheets_write_is_read(text: str) -> None:
    assert read_csv(text).jobs == [JOB]


def test_a_quoted_cell_may_hold_separators_quotes_and_lines() -> None:
    text = 'action,backend,volume,info\nvolume.set_info,fast,vm1,"a,""b""\nc"\n'
    batch = read_csv(text + "volume.set_info,fast,vm2,x\n")
    assert batch.jobs[0]["params"] == {"info": 'a,"b"\nc'}
    assert batch.places == ["row 2", "row 3"], "rows count as in a spreadsheet, not as lines"


def test_a_number_that_is_a_ref_of_the_file_is_a_ref() -> None:
    text = (
        "ref,action,backend,volume,size,depends_on\n"
        "1,volume.create,fast,a,1G,\n"
        ",volume.create,fast,b,1G,1 17\n"
    )
    assert read_csv(text).jobs[1]["depends_on"] == ["1", 17]


@pytest.mark.parametrize(
    ("text", "kind", "place"),
    [
        (HEAD + GOOD + "volume.create,fast,vm2,10Q\n", InvalidSize, "row 3, column size"),
        (HEAD + GOOD + "volume.create,fast,vm2,0\n", InvalidSize, "row 3, column size"),
        (HEAD + "\n" + "volume.create,fast,-x,1G\n", InvalidName, "row 3, column volume"),
        (HEAD + "volume.create,fast,,1G\n", MissingField, "row 2, column volume"),
        (HEAD + "volume.create,fast,vm1,\n", MissingField, "row 2, column size"),
        (HEAD + "volume.create,,vm1,1G\n", MissingField, "row 2, column backend"),
        (HEAD + ",fast,vm1,1G\n", MissingField, "row 2, column action"),
        (HEAD + "volume.explode,fast,vm1,1G\n", UnknownAction, "row 2, column action"),
        (HEAD + "volume.wipe,fast,vm1,1G\n", UnknownParameter, "row 2, column size"),
        (HEAD + GOOD + "volume.create,fast,vm1,1G,more\n", InvalidInput, "row 3"),
        (HEAD + 'volume.create,fast,"vm1,1G\n', MalformedBody, "row 2"),
        ("action,backend,volume,sise\n" + GOOD, UnknownField, "row 1, column sise"),
        ("action,volume,volume\n", InvalidInput, "row 1, column volume"),
        ("action,,volume\n", InvalidInput, "row 1: column 2"),
        ("backend,volume\nfast,vm1\n", MissingField, "row 1"),
        (
            "action,backend,volume,size,priority\nvolume.create,fast,v,1G,high\n",
            InvalidInput,
            "row 2, column priority",
        ),
        (
            "action,backend,volume,size,priority\nvolume.create,fast,v,1G,99\n",
            InvalidInput,
            "row 2, column priority",
        ),
        (
            "action,backend,volume,wipe\nvolume.remove,fast,v,perhaps\n",
            InvalidInput,
            "row 2, column wipe",
        ),
        (
            "action,backend,volume,size,metadata.o\nvolume.create,fast,v,1G," + "x" * 2000 + "\n",
            InvalidInput,
            "row 2, column metadata.o",
        ),
        (
            "action,backend,volume,size,run_at\nvolume.create,fast,v,1G,tomorrow\n",
            InvalidInput,
            "row 2, column run_at",
        ),
    ],
)
def test_an_error_names_its_row_and_column(text: str, kind: type[Problem], place: str) -> None:
    with pytest.raises(kind) as caught:
        read_csv(text)
    assert caught.value.detail.startswith(place)
    if ", column " in place:
        assert caught.value.field == place.partition(", column ")[2]


def test_columns_are_known_by_their_names_however_they_are_written() -> None:
    batch = read_csv(
        "Ref,ACTION,Backend,Volume,Depends on,Max-Attempts,SIZE,Metadata.Owner\n"
        "a,volume.create,fast,vm1,17,2,10G,billing\n"
    )
    params = {"size": "10G", "metadata": {"Owner": "billing"}}
    job = {**JOB, "ref": "a", "depends_on": [17], "max_attempts": 2, "params": params}
    assert batch.jobs == [job]


def test_all_mistakes_are_told_with_row_and_column() -> None:
    with pytest.raises(InvalidSize) as caught:
        read_csv(
            "\nref,action,backend,volume,size,priority\n"
            "a,volume.create,fast,vm1,10Q,\n"
            "b,volume.create,fast,vm2,10G,high\n"
            "a,volume.craete,fast,vm3,10G,\n"
            "c,volume.create,fast,-x,,99\n"
            "d,volume.create,fast,vm4,10G,,,more\n"
        )
    problem = caught.value
    assert problem.detail.startswith("row 3, column size: ")
    assert [(e["row"], e.get("column"), e["code"]) for e in problem.facts["errors"]] == [
        (3, "size", "invalid_size"),
        (4, "priority", "invalid_input"),
        (5, "ref", "invalid_input"),
        (5, "action", "unknown_action"),
        (6, "priority", "invalid_input"),
        (6, "volume", "invalid_name"),
        (6, "size", "missing_field"),
        (7, None, "invalid_input"),
    ]
    assert "ref 'a' is used in row 3 already" in problem.facts["errors"][2]["detail"]


def test_of_very_many_mistakes_a_hundred_are_told_and_the_others_counted() -> None:
    with pytest.raises(InvalidSize) as caught:
        read_csv(HEAD + "volume.create,fast,vm1,10Q\n" * 130)
    assert len(caught.value.facts["errors"]) == 100
    assert caught.value.facts["more"] == 30


def test_all_columns_that_are_not_known_are_told_with_what_may_be_meant() -> None:
    with pytest.raises(UnknownField) as caught:
        read_csv("action,bakend,colour\nvolume.create,fast,red\n")
    told = [error["detail"] for error in caught.value.facts["errors"]]
    assert told[0].endswith("did you mean 'backend'?")
    assert told[1].startswith("row 1, column colour: it is no parameter of any action nor one of")


def test_a_size_without_a_unit_is_doubted() -> None:
    batch = read_csv(HEAD + "volume.create,fast,vm1,10\nvolume.create,fast,vm2,1M\n")
    assert batch.doubts() == [
        "row 2: the size is 10 bytes, less than 1 MiB: a number without a unit is bytes"
    ]
    assert read_json('[{"params": {"size_bytes": 10}}, {"params": 3}, {}]').doubts() != []


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


LINE = '{"action": "volume.create", "backend": "fast", "volume": "vm1", "params": {"size": "10G"}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fleet.csv", "\ufeff" + HEAD + GOOD),
        ("fleet", HEAD + GOOD),
        ("fleet.json", f"[{LINE}]"),
        ("fleet.json", f'\ufeff{{"jobs": [{LINE}]}}'),
        ("fleet", f" [{LINE}]"),
        ("fleet", f'{{"jobs": [{LINE}]}}'),
        ("fleet.ndjson", f"{LINE}\n"),
        ("fleet.jsonl", f"\n{LINE}"),
        ("fleet", f"{LINE}\n\n"),
    ],
)
def test_a_file_is_read_by_its_ending_or_its_beginning(
    tmp_path: Path, name: str, content: str
) -> None:
    assert read_batch(written(tmp_path / name, content)).jobs == [JOB]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("fleet.csv", HEAD, "holds no jobs"),
        ("fleet.csv", "", "is empty"),
        ("fleet.json", "[]", "holds no jobs"),
        ("fleet.csv", HEAD.encode() + b"volume.create,fast,vm\xff,1G\n", "line 2 is not UTF-8"),
    ],
)
def test_a_file_without_jobs_is_refused(
    tmp_path: Path, name: str, content: str | bytes, part: str
) -> None:
    with pytest.raises(InvalidInput, match=part):
        read_batch(written(tmp_path / name, content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.csv cannot be read: No such file"):
        read_batch(tmp_path / "none.csv")


def test_lines_that_are_no_json_are_named() -> None:
    with pytest.raises(MalformedBody, match="line 3 is no JSON"):
        read_ndjson(f"{LINE}\n\n{{oops\n")
    with pytest.raises(InvalidInput, match="line 1 is no object"):
        read_ndjson("[]\n")


def test_json_that_is_no_batch_is_refused() -> None:
    with pytest.raises(MalformedBody, match="is no JSON"):
        read_json("[,]")
    with pytest.raises(InvalidInput, match="job 2 is no object"):
        read_json("[{}, 3]")
    with pytest.raises(UnknownField, match="not 'action'"):
        read_json(LINE)


TWICE = '{"action": "volume.remove", "backend": "fast", "volume": "n1", "volume": "n2"}'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("fleet.json", f"[{LINE}, {TWICE}]", "job 2: 'volume' is twice in one object"),
        ("fleet.json", f'{{"jobs": [{LINE}, {TWICE}]}}', "job 2: 'volume' is twice in one object"),
        ("fleet.json", '{"jobs": [], "jobs": []}', "'jobs' is twice in one object"),
        ("fleet.ndjson", f"{LINE}\n\n{TWICE}\n", "line 3: 'volume' is twice in one object"),
        ("fleet", f"{LINE}\n{TWICE}\n", "line 2: 'volume' is twice in one object"),
        ("fleet", TWICE, "line 1: 'volume' is twice in one object"),
        (
            "fleet.json",
            '[{"params": {"metadata": {"a": "1", "a": "2"}}}]',
            "job 1: 'a' is twice in one object",
        ),
        (
            "fleet.csv",
            "action,backend,volume,metadata\n"
            'volume.create,fast,vm1,"{""a"": ""1"", ""a"": ""2""}"\n',
            "row 2, column metadata: metadata: 'a' is twice in one object",
        ),
    ],
)
def test_a_key_that_is_twice_is_refused_with_its_place(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_batch(written(tmp_path / name, content))
    assert caught.value.detail.startswith(said)


def test_a_json_batch_may_tell_its_reason() -> None:
    assert read_json('{"jobs": [{}], "reason": "spring"}').reason == "spring"


def test_a_refusal_of_the_service_names_the_place_in_the_file() -> None:
    batch = BatchFile([JOB, JOB], ["row 2", "row 5"])
    with pytest.raises(UnknownVolume) as caught, batch.naming_places():
        raise UnknownVolume("there is no volume 'x'", index=1)
    assert caught.value.detail == "row 5: there is no volume 'x'"
    assert caught.value.facts["place"] == "row 5"
