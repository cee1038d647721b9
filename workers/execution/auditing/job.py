"""`backend.audit`: read the storage whole, then compare it with one state of the record.

What a job may have changed since the reading began is left out, so nothing is flagged that is
being changed. If the storage could not be read whole, nothing is flagged at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.domain.lanes import policy_lane
from orchestrator.domain.outlook import Outlook, VolumeOutlook
from orchestrator.domain.states import FindingKind, VolumeState
from orchestrator.findings.recording import AuditResult, Finding, open_findings
from orchestrator.resources.volume.loading import take_volumes, volumes_at
from orchestrator.store.transaction import Transaction
from workers.backends.base.facts import Absent, Look, NotOurs, PolicyFacts
from workers.backends.base.references import VolumeRef
from workers.execution.auditing import inside
from workers.execution.auditing.comparing import devices_of, odd
from workers.execution.auditing.exported import compare_policies
from workers.execution.auditing.orphans import orphans, strays
from workers.execution.auditing.plain import Sameness, recorded
from workers.execution.auditing.reading import (
    beginning,
    note_busy,
    read_policies,
    read_strays,
    read_volumes,
)
from workers.execution.auditing.seen import Seen, SeenVolume, nothing_seen, skipped
from workers.execution.auditing.volumes import compare_volume, finding_of
from workers.execution.auditing.written import Written, snapshots_written, written_behind
from workers.execution.work import Done, Work

#: Findings that one audit writes at most. Where there are more, the backend is not what it was
#: taken for, and repairing them one by one is not what helps.
MOST_FINDINGS = 10_000


def audit(work: Work) -> Done:
    """Compare what a backend really has with the inventory."""
    listed = "volumes" not in work.driver.cannot_tell
    with work.database.read() as transaction:
        since = beginning(transaction)
    with nothing_seen() as seen:
        policies: Mapping[str, PolicyFacts] = {}
        if listed:
            read_volumes(work, seen)
            read_strays(work, seen)
            policies = read_policies(work)
            # What was unmounted meanwhile has shown less than there is.
            work.check_identity()
        with work.database.read() as transaction:
            note_busy(transaction, seen, since)
            comparison = Comparison(work, transaction, seen)
            if listed:
                comparison.add(comparison.volumes())
                comparison.add(orphans(work, transaction, seen))
                comparison.add(strays(work, transaction, seen))
                comparison.add(compare_policies(work, transaction, policies, seen))
            comparison.add(inside.findings(work, transaction, seen))
            return comparison.done(listed=listed)


class Comparison:
    """The comparison of one audit, on one state of the database."""

    def __init__(self, work: Work, transaction: Transaction, seen: Seen) -> None:
        self._work = work
        self._transaction = transaction
        self._seen = seen
        self._backend = work.intent.backend
        self._findings: list[Finding] = []
        self._total: Counter[str] = Counter()
        self._recorded = 0
        self._busy = 0

    def add(self, found: Iterable[Finding]) -> None:
        """Keep what was found, as far as there is room; all is counted."""
        for one in found:
            self._total[one.kind] += 1
            if len(self._findings) < MOST_FINDINGS:
                self._findings.append(one)

    def volumes(self) -> Iterator[Finding]:
        """What is recorded of volumes otherwise than it is."""
        work, seen = self._work, self._seen
        same = Sameness(work.claim.driver, work.driver)
        for page in recorded(self._transaction, work.claim.backend_id):
            work.checkpoint()
            self._recorded += len(page)
            work.progress(self._recorded, self._recorded, "volumes")
            there = seen.match(one.id for one in page)
            lanes = {one.id: f"{self._backend}/{one.name}" for one in page}
            busy = seen.busy(lanes.values())
            left_out = [one.id for one in page if lanes[one.id] in busy]
            self._busy += len(left_out)
            seen.note_busy(map(skipped, left_out))
            yield from self._differing(
                one.name
                for one in page
                if lanes[one.id] not in busy
                and not (one.id in there and same.holds(one, there[one.id]))
            )

    def _differing(self, names: Iterable[str]) -> Iterator[Finding]:
        """What is wrong about volumes of these names, if anything is."""
        targets = [(self._backend, name) for name in names]
        if not targets:
            return
        outlook = Outlook()
        [rows] = self._transaction.ask(volumes_at(targets))
        take_volumes(self._transaction, outlook, rows, targets)
        there = self._seen.of(record.id for record in outlook.volumes.values())
        for record in outlook.volumes.values():
            yield from self._volume(record, there.get(record.id, []))

    def _volume(self, record: VolumeOutlook, there: list[SeenVolume]) -> Iterator[Finding]:
        subject = f"volume {record.id}"
        about: dict[str, Any] = {"volume": record.name, "volume_id": record.id}
        if record.state is VolumeState.PENDING:
            yield Finding(
                kind=FindingKind.STUCK,
                subject=subject,
                text=f"volume {record.name!r} is pending, and no job makes it any more",
                detail={"what": "pending"},
                **about,
            )
            return
        if not there:
            yield from self._missing(record, about)
            return
        # A copy made by hand may bear the same stamp: the one with the right name is meant.
        there.sort(key=lambda one: (one.facts.name != record.name, one.number))
        yield from compare_volume(self._work, self._transaction, record, there[0])
        yield from self._written(record, there[0])
        for copy in there[1:]:
            yield Finding(
                kind=FindingKind.ORPHAN,
                subject=f"{subject} again as {copy.facts.name}"[:600],
                text=f"{copy.facts.name!r} bears the stamp of volume {record.name!r}, which is "
                "elsewhere: somebody has copied it; look which of them is used, and take the "
                "other away by hand",
                detail={"found": {"size_bytes": copy.facts.size_bytes}, "copies": True},
                **{**about, "volume": copy.facts.name[:255]},
            )

    def _written(self, record: VolumeOutlook, there: SeenVolume) -> Iterator[Finding]:
        """Whether images were written to while nobody had them."""
        transaction, backend, facts = self._transaction, self._backend, there.facts
        told: list[tuple[str | None, Written | None]] = []
        if not (record.attachments or facts.attached or facts.written_at is None):
            told.append((None, written_behind(transaction, backend, record, facts.written_at)))
        told += snapshots_written(transaction, backend, record, there.snapshots)
        for snapshot, written in told:
            if written is not None:
                one = odd("written", written.last.isoformat(), f"{written.at:%FT%TZ}", snapshot)
                yield finding_of(transaction, self._work.claim.backend_id, record, one)

    def _missing(self, record: VolumeOutlook, about: Mapping[str, Any]) -> Iterator[Finding]:
        """What a volume is that was not listed: only what is seen to be gone is lost."""
        # Findings that there is no room for are counted only, and not looked at one by one.
        look: Look = Absent()
        if len(self._findings) < MOST_FINDINGS:
            look = self._work.driver.inspect(VolumeRef(record.id, record.name, record.size_bytes))
        subject, recorded = f"volume {record.id}", {"size_bytes": record.size_bytes}
        left = self._seen.strays(record.id)
        if isinstance(look, Absent):
            also = f"; of its snapshots {', '.join(left)} are left" if left else ""
            yield Finding(
                kind=FindingKind.GHOST,
                subject=subject,
                text=f"volume {record.name!r} is recorded, and the storage has none{also}",
                detail={"recorded": recorded, "found": None, "snapshots_left": left},
                **about,
            )
        elif isinstance(look, NotOurs):
            yield Finding(
                kind=FindingKind.METADATA,
                subject=f"{subject} stamp",
                text=f"volume {record.name!r}: {look.what} stands in its place and does not bear "
                "its stamp, and the volume itself is nowhere else: look whether somebody has "
                "replaced or restored it by hand",
                detail={"what": "stamp", "recorded": recorded, "found": look.what},
                **about,
            )
        else:
            # It has come back, or appeared, since the storage was listed.
            volume, driver = VolumeRef(record.id, record.name), self._work.driver
            seen = SeenVolume(
                number=0,
                facts=look,
                snapshots=tuple(driver.list_snapshots(volume)),
                devices=tuple(devices_of(driver, volume)),
            )
            yield from compare_volume(self._work, self._transaction, record, seen)

    def done(self, *, listed: bool) -> Done:
        """The outcome of the audit; a finding that could not be looked at stays as it is."""
        total = sum(self._total.values())
        whole = total <= len(self._findings)
        result = AuditResult(
            backend_id=self._work.claim.backend_id,
            backend=self._backend,
            job_id=self._work.job_id,
            seen=self._findings,
            closed=[*self._closed()] if whole else [],
            volumes=(self._recorded, self._seen.count()) if listed and whole else None,
        )
        told = {
            "host": self._work.host,
            "findings": dict(sorted(self._total.items())),
            "volumes_recorded": self._recorded if listed else None,
            "volumes_found": self._seen.count() if listed else None,
            "volumes_busy": self._busy,
        }
        if not listed:
            told["not_compared"] = "this kind of storage cannot tell which volumes it has"
        if not whole:
            told["not_written"] = total - len(self._findings)
        return Done(result=told, changes=[result])

    def _closed(self) -> Iterator[int]:
        keys = {one.key for one in self._findings}
        known: Any = open_findings(self._transaction, self._work.claim.backend_id)
        for key, row in known.items():
            if key not in keys and not self._hidden(row):
                yield row["id"]

    def _hidden(self, row: Mapping[str, Any]) -> bool:
        """Whether this audit could not see if a finding is still true."""
        if row["kind"] == FindingKind.ATTACHMENT and not inside.sees(self._work, row):
            return True
        if row["volume"] is not None and self._seen.is_busy(f"{self._backend}/{row['volume']}"):
            return True
        if row["volume_id"] is not None and self._seen.is_busy(skipped(row["volume_id"])):
            return True
        policy = str(row["policy"])
        return row["policy"] is not None and self._seen.is_busy(policy_lane(self._backend, policy))
