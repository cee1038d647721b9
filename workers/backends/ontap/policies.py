"""Export policies of the SVM, and the identity marker, which is one without rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from orchestrator.domain.errors import (
    AlreadyExists,
    BackendError,
    Conflict,
    IdentityMismatch,
    NotFound,
    UnknownPolicy,
)
from orchestrator.domain.exports import Rule
from workers.backends.base.call import Call
from workers.backends.base.facts import PolicyFacts
from workers.backends.base.references import PolicyRef, check_id
from workers.backends.ontap.facts import policy_body
from workers.backends.ontap.names import MARKER, NEW, native_policy, seen_other
from workers.backends.ontap.rules import meaning, rule_body, shared
from workers.backends.ontap.volumes import Record, Volumes

POLICIES = "/protocols/nfs/export-policies"
_FIELDS = "id,name,rules"


class Policies:
    """What is done with the export policies of one SVM.

    Policies have no place for a stamp: the filer's own number of one is what we know it by.
    """

    def __init__(self, volumes: Volumes) -> None:
        self.volumes = volumes
        self.filer = volumes.filer

    # -- looking ------------------------------------------------------------------------------

    def all(self) -> Iterator[PolicyFacts]:
        """Every published one."""
        for record in self._records():
            if not record["name"].startswith((NEW, MARKER)):
                yield _facts(record)

    def inspect(self, policy: PolicyRef) -> PolicyFacts | None:
        """The one of this number; without a number, what is being built, or else the name."""
        record = self._found(policy)
        return None if record is None else _facts(record)

    def needed(self, policy: PolicyRef) -> Record:
        record = self._found(policy)
        if record is None:
            raise UnknownPolicy(f"the SVM {self.filer.svm} has no export policy {policy.name}")
        return record

    def _records(self, **query: str) -> Iterator[Record]:
        return self.filer.records(POLICIES, _FIELDS, **{"svm.name": self.filer.svm}, **query)

    def _named(self, native: str) -> Record | None:
        return next(self._records(name=native), None)

    def _found(self, policy: PolicyRef) -> Record | None:
        check_id(policy.id)
        if policy.native is None:
            return self._built(policy) or self._named(native_policy(policy.name))
        with suppress(NotFound):
            return self.filer.get(_path(policy.native), fields=_FIELDS)
        return None

    def _built(self, policy: PolicyRef) -> Record | None:
        return self._named(NEW + check_id(policy.id))

    # -- making -------------------------------------------------------------------------------

    def build(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> str:
        """Make it under a name with its id; the filer's number of it."""
        native_policy(policy.name)
        call.checkpoint()
        record = self._built(policy)
        if record is None and policy.native is not None and (known := self._found(policy)):
            return str(known["id"])
        if record is None:
            body = {
                "name": NEW + policy.id,
                "svm": {"name": self.filer.svm},
                "rules": [rule_body(rule) for rule in rules],
            }
            try:
                answer = self.filer.post(POLICIES, body, return_records="true")
                return str(answer["records"][0]["id"])
            except AlreadyExists:
                record = self._built(policy)
            except (KeyError, IndexError):
                record = self._built(policy)
        if record is None:
            raise Conflict(f"what was built for {policy.name} was taken away meanwhile")
        self._set(record, rules, call)
        return str(record["id"])

    def publish(self, policy: PolicyRef, call: Call) -> PolicyFacts:
        """Give what was built its name, in one step."""
        native = native_policy(policy.name)
        call.checkpoint()
        record = self._built(policy) if policy.native is None else self._found(policy)
        if record is None:
            raise UnknownPolicy(f"nothing was built for the export policy {policy.name}")
        if record["name"] == native:
            return _facts(record)
        if record["name"] != NEW + policy.id:
            raise Conflict(f"the export policy {policy.name} is {seen_other(record['name'])} now")
        try:
            self.filer.patch(_path(record["id"]), {"name": native})
        except AlreadyExists:
            raise AlreadyExists(
                f"the SVM {self.filer.svm} already has another export policy {policy.name}"
            ) from None
        return _facts({**record, "name": native})

    def discard(self, policy: PolicyRef, call: Call) -> None:
        """Take away what was built and not published."""
        check_id(policy.id)
        call.checkpoint()
        record = self._built(policy)
        if record is not None:
            with suppress(NotFound):
                self.filer.delete(_path(record["id"]))

    def remove(self, policy: PolicyRef, call: Call) -> None:
        """Delete the one of this number; the filer refuses while a volume has it."""
        self.discard(policy, call)
        if policy.native is not None:
            with suppress(NotFound):
                self.filer.delete(_path(policy.native))

    # -- rules ----------------------------------------------------------------------------------

    def set_rules(self, policy: PolicyRef, rules: Sequence[Rule], call: Call) -> PolicyFacts:
        """Change the rules until they are these, in this order."""
        call.checkpoint()
        record = self.needed(policy)
        self._set(record, rules, call)
        return _facts(self.needed(policy))

    def _set(self, record: Record, rules: Sequence[Rule], call: Call) -> None:
        """One rule after the other, so that at each moment a client gets what it had or will get.

        ONTAP takes the first rule that fits a client. The new rules are put before those they
        replace, the first one first; the old ones are then taken away, the last one first.
        What both begin and end with stays.
        """
        path = f"{_path(record['id'])}/rules"
        there: list[Record] = sorted(record.get("rules", ()), key=lambda one: int(one["index"]))
        first, last = shared([meaning(one) for one in there], rules)
        old = there[first : len(there) - last]
        new = rules[first : len(rules) - last]
        if len(old) == 1 and len(new) == 1:
            call.checkpoint()
            self.filer.patch(f"{path}/{old[0]['index']}", rule_body(new[0]))
            return
        behind = there[first:]
        for number, rule in enumerate(new):
            call.checkpoint()
            # The filer moves what stands at this place, and what follows, one place down.
            place = {"index": int(behind[0]["index"]) + number} if behind else {}
            self.filer.post(path, rule_body(rule) | place)
        if not old:
            return
        if new:
            record = self.filer.get(_path(record["id"]), fields=_FIELDS)
            there = sorted(record.get("rules", ()), key=lambda one: int(one["index"]))
            old = there[first + len(new) : len(there) - last]
        for rule_there in reversed(old):
            call.checkpoint()
            with suppress(NotFound):
                self.filer.delete(f"{path}/{rule_there['index']}")

    def body_for(self, policy: PolicyRef | None) -> dict[str, Any]:
        """How to give a volume this policy, which must be there; its number, not its name."""
        if policy is None:
            return policy_body(None)
        return {"id": int(self.needed(policy)["id"])}

    # -- the identity marker ----------------------------------------------------------------------

    def read_marker(self) -> str | None:
        """The identity that the SVM bears."""
        found = self._markers()
        if len(found) > 1:
            names = ", ".join(sorted(record["name"] for record in found))
            raise IdentityMismatch(
                f"the SVM {self.filer.svm} bears several identities: {names}; delete the export "
                "policies of those that are wrong"
            )
        return seen_other(found[0]["name"].removeprefix(MARKER)) if found else None

    def write_marker(self, identity: str, *, replace: bool) -> None:
        """Make the policy without rules that is the marker; renamed in one step if replaced."""
        name = MARKER + native_policy(identity)
        found = self._markers()
        if any(record["name"] == name for record in found) and len(found) == 1:
            return
        if found and not replace:
            raise IdentityMismatch(
                f"the SVM {self.filer.svm} already bears the marker "
                f"{seen_other(found[0]['name'].removeprefix(MARKER))}, not {identity}"
            )
        keep = next((record for record in found if record["name"] == name), None)
        with suppress(AlreadyExists):
            if not found:
                self.filer.post(POLICIES, {"name": name, "svm": {"name": self.filer.svm}})
            elif keep is None:
                keep = found[0]
                self.filer.patch(_path(keep["id"]), {"name": name})
        for record in found:
            if record is not keep:
                self.filer.delete(_path(record["id"]))
        if self.read_marker() != identity:
            raise BackendError(f"the marker of the SVM {self.filer.svm} could not be written")

    def _markers(self) -> list[Record]:
        found = list(self._records(name=f"{MARKER}*"))
        if not found:
            self.volumes.require_svm()
        return found


def _path(number: object) -> str:
    return f"{POLICIES}/{int(str(number))}"


def _facts(record: Record) -> PolicyFacts:
    built = record["name"].startswith(NEW)
    there = sorted(record.get("rules", ()), key=lambda one: int(one["index"]))
    return PolicyFacts(
        id=record["name"].removeprefix(NEW) if built else None,
        name=seen_other(record["name"]),
        native=str(record["id"]),
        rules=tuple(rule for one in there for rule in meaning(one)),
    )
