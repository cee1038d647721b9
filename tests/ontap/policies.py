"""The export policies of the double, and the order of their rules."""

from __future__ import annotations

import itertools
from typing import Any

from tests.ontap.records import Refused, missing


class Policies:
    """Policies by id. A rule that is inserted moves those behind it, up to the next gap."""

    def __init__(self, svms: list[dict[str, Any]]) -> None:
        self.records: dict[int, dict[str, Any]] = {}
        self._ids = itertools.count(12884901889)
        self._svms = svms
        for one in svms:
            self.create({"name": "default", "svm": {"name": one["name"]}})

    def take_up(self, records: dict[int, dict[str, Any]]) -> None:
        """Go on with what an earlier process had."""
        self.records = records
        self._ids = itertools.count(max(records) + 1)

    def find(self, wanted: dict[str, Any], svm: str) -> dict[str, Any]:
        """What a volume shows of its policy."""
        for one in self.records.values():
            if one["svm"]["name"] == svm and all(
                str(one[key]) == str(value) for key, value in wanted.items()
            ):
                return {"id": one["id"], "name": one["name"]}
        raise Refused(404, 1703954, "Export policy does not exist.", "nas.export_policy")

    def get(self, key: str) -> dict[str, Any]:
        record = self.records.get(int(key)) if key.isdigit() else None
        if record is None:
            raise missing("id")
        return record

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        svm = next((one for one in self._svms if one["name"] == body["svm"].get("name")), None)
        if svm is None:
            raise Refused(404, 2621462, "SVM does not exist.", "svm.name")
        self._check_name(body.get("name", ""), svm["name"])
        record: dict[str, Any] = {
            "id": next(self._ids),
            "name": body["name"],
            "svm": {"name": svm["name"]},
            "rules": [],
        }
        for rule in body.get("rules", ()):
            self._insert(record, rule)
        self.records[record["id"]] = record
        return record

    def rename(self, key: str, body: dict[str, Any], volumes: list[dict[str, Any]]) -> None:
        record = self.get(key)
        name = body.get("name", record["name"])
        if record["name"] == "default":
            raise Refused(400, 1703950, "Failed to rename ruleset: the default one stays.")
        if name != record["name"]:
            self._check_name(name, record["svm"]["name"])
        record["name"] = name
        for volume in volumes:
            if volume["nas"]["export_policy"]["id"] == record["id"]:
                volume["nas"]["export_policy"]["name"] = name

    def delete(self, key: str, volumes: list[dict[str, Any]]) -> None:
        record = self.get(key)
        users = [one for one in volumes if one["nas"]["export_policy"]["id"] == record["id"]]
        if users or record["name"] == "default":
            raise Refused(
                409, 1703944, f'Failed to delete ruleset "{record["name"]}": it is in use.'
            )
        del self.records[record["id"]]

    # -- rules --------------------------------------------------------------------------------

    def add_rule(self, key: str, rule: dict[str, Any]) -> dict[str, Any]:
        return self._insert(self.get(key), rule)

    def change_rule(self, key: str, index: str, rule: dict[str, Any]) -> None:
        self._rule(key, index).update(rule)

    def drop_rule(self, key: str, index: str) -> None:
        self.get(key)["rules"].remove(self._rule(key, index))

    def _rule(self, key: str, index: str) -> dict[str, Any]:
        for rule in self.get(key)["rules"]:
            if str(rule["index"]) == index:
                return rule  # type: ignore[no-any-return]
        raise missing("index")

    def _insert(self, record: dict[str, Any], rule: dict[str, Any]) -> dict[str, Any]:
        for needed in ("clients", "ro_rule", "rw_rule"):
            if not rule.get(needed):
                raise Refused(400, 1703955, f'Field "{needed}" is required.', needed)
        rules = record["rules"]
        index = rule.get("index") or max((one["index"] for one in rules), default=0) + 1
        free = index
        while any(one["index"] == free for one in rules):
            free += 1
        for one in rules:
            if index <= one["index"] < free:
                one["index"] += 1
        new = {
            "protocols": ["any"],
            "superuser": ["none"],
            "anonymous_user": "65534",
            **rule,
            "index": index,
        }
        rules.append(new)
        rules.sort(key=lambda one: one["index"])
        return new

    def _check_name(self, name: str, svm: str) -> None:
        if not name or " " in name or len(name) > 256:
            raise Refused(400, 1703952, "Invalid ruleset name provided.", "name")
        for one in self.records.values():
            if (one["name"], one["svm"]["name"]) == (name, svm):
                raise Refused(409, 1, f'duplicate entry: ruleset "{name}" already exists', "name")
