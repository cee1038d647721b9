"""How volumes are offered to clients: handlers for export policies, and for settings."""

from __future__ import annotations

from orchestrator.actions.policy.rules import rules_wanted
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.errors import Conflict
from orchestrator.domain.exports import parse_rules, written_rules
from orchestrator.domain.outlook import PolicyOutlook
from orchestrator.domain.states import PolicyState
from orchestrator.inventory.changes import PolicyGone, set_policy, set_volume, settings_columns
from workers.backends.base.abilities import CanConfigure, CanExportByPolicy
from workers.backends.base.driver import driver_that
from workers.execution.work import Done, Work, built_policy, exports_of, recorded_volume


def configured(work: Work, done: Done) -> Done:
    """Change settings: those of the storage there, the others in the inventory alone."""
    wanted, recorded = work.intent.settings, recorded_volume(work).settings
    has = DRIVERS[work.claim.driver].settings
    native = {name: value for name, value in wanted.items() if name in has}
    work.intend("configure")
    after = {**recorded, **wanted}
    record = settings_columns(after)
    if native:
        record = exports_of(
            driver_that(work.driver, CanConfigure).configure(work.volume, native, work), after
        )
    return Done(
        result={**done.result, "settings": record["settings"]},
        changes=[*done.changes, set_volume(work.volume.id, **record)],
        before={**(done.before or {}), "settings": recorded},
        after={**(done.after or {}), "settings": record["settings"]},
    )


def _policy_record(work: Work) -> PolicyOutlook:
    """The policy as the inventory has it; the rules made sure that there is one."""
    assert work.claim.policy is not None  # noqa: S101
    return work.claim.policy


def create_policy(work: Work) -> Done:
    """Make an export policy: build it, write down its key, and publish it."""
    rules = parse_rules(work.intent.params["rules"])
    if work.intended("built") is None:
        work.note(
            "built",
            native=driver_that(work.driver, CanExportByPolicy).build_policy(
                work.policy, rules, work
            ),
        )
    facts = driver_that(work.driver, CanExportByPolicy).publish_policy(built_policy(work), work)
    told = {"state": PolicyState.AVAILABLE, "rules": written_rules(rules)}
    return Done(
        result={"id": work.policy.id, "rules": written_rules(rules)},
        changes=[set_policy(work.policy.id, native=facts.native, **told)],
        after=told,
    )


def remove_policy(work: Work) -> Done:
    """Remove an export policy."""
    work.intend("remove")
    driver_that(work.driver, CanExportByPolicy).remove_policy(work.policy, work)
    return Done(
        changes=[PolicyGone(work.policy.id)],
        before={"rules": written_rules(_policy_record(work).rules)},
        after={"state": PolicyState.REMOVED},
    )


def change_rules(work: Work) -> Done:
    """Give an export policy the rules that the action asks for; all of them are written anew."""
    record = _policy_record(work)
    wanted = rules_wanted(work.intent, record)
    rules = written_rules(wanted)
    if work.intent.action.verb in ("add_rule", "remove_rule"):
        _refuse_drift(work, record)
    if wanted != record.rules or work.intent.action.verb == "reapply":
        work.intend("set_rules", rules=rules)
        driver_that(work.driver, CanExportByPolicy).set_rules(work.policy, wanted, work)
    return Done(
        result={"rules": rules},
        changes=[set_policy(record.id, rules=rules, state=PolicyState.AVAILABLE)],
        before={"rules": written_rules(record.rules)},
        after={"rules": rules},
    )


def _refuse_drift(work: Work, record: PolicyOutlook) -> None:
    """Refuse to change one rule where others are not as recorded: they would be written over."""
    if work.intended("set_rules") is not None:
        return  # an earlier attempt has begun to write them
    found = driver_that(work.driver, CanExportByPolicy).inspect_policy(work.policy)
    if found is not None and found.rules != record.rules:
        raise Conflict(
            f"the storage's rules of export policy {record.name!r} are "
            f"{', '.join(written_rules(found.rules)) or 'none'}, and recorded are "
            f"{', '.join(written_rules(record.rules)) or 'none'}: somebody has changed them; "
            "name all rules anew with policy.set_rules, or write the recorded ones with "
            "policy.reapply",
            rules=written_rules(found.rules),
        )


def assign_policy(work: Work) -> Done:
    """Give a volume an export policy, or none."""
    record, wanted = recorded_volume(work), work.claim.policy
    work.intend("assign")
    driver_that(work.driver, CanExportByPolicy).assign_policy(
        work.volume, work.policy if wanted else None, work
    )
    after = {"policy": wanted.name if wanted else None}
    return Done(
        result=after,
        changes=[set_volume(record.id, policy_id=wanted.row_id if wanted else None)],
        before={"policy": record.policy},
        after=after,
    )
