"""The tables. Invariants are constraints and indexes here, not conventions in code."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    false,
    text,
    true,
)

from orchestrator.domain.states import (
    FINISHED,
    BackendState,
    EventKind,
    FindingKind,
    FindingState,
    JobState,
    PolicyState,
    Role,
    SnapshotState,
    VolumeState,
)
from orchestrator.store.columns import BigId, Json, UtcDateTime

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, words: object) -> str:
    listed = ", ".join(f"'{word}'" for word in words)  # type: ignore[attr-defined]
    return f"{column} IN ({listed})"


_finished = _one_of("state", FINISHED)

#: Number sources on PostgreSQL. SQLite, with its one writer, counts in `counters`.
SEQUENCES = {
    name: Sequence(f"{name}_numbers", metadata=metadata)
    for name in ("jobs", "batches", "fences", "commits")
}

#: SQLite's number sources: the last number given out, by name.
counters = Table(
    "counters",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

#: One row: who we are. Storage is stamped on behalf of this installation.
installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uuid", String(32), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    #: False while the queue is drained: no new jobs are taken.
    Column("accepting", Boolean, nullable=False, server_default=true()),
    #: The database was found to be older than it had been; null once somebody has seen to that.
    Column("restored_at", UtcDateTime),
    CheckConstraint("id = 1", name="single"),
)

#: The lives of the database: a new one begins where it was restored from a backup. Numbers of
#: one life prove nothing in another (`orchestrator.store.lives`).
lives = Table(
    "lives",
    metadata,
    #: The high bits of its fencing numbers: grows with each life.
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    #: Random; '' for what was before there were lives.
    Column("life", String(32), nullable=False),
    #: Jobs from this number on are of this life, or of a later one.
    Column("first_job", BigInteger, nullable=False),
    #: The number of the last event that it has in common with the life before.
    Column("last_event", BigInteger, nullable=False),
    Column("began_at", UtcDateTime, nullable=False),
    Column("why", Text, nullable=False),
)

backends = Table(
    "backends",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("driver", String(32), nullable=False),
    Column("state", String(16), nullable=False, server_default=BackendState.ENABLED),
    #: False once it is no longer in the configuration; its history stays.
    Column("configured", Boolean, nullable=False, server_default=text("true")),
    #: What workers found it can do; null until one has looked.
    Column("capabilities", Json),
    #: What its volumes may have values of their own for: names, and what they mean.
    Column("parameters", Json),
    #: The identity marker: decided here first, then written to the storage.
    Column("identity", String(32)),
    Column("identity_written", Boolean, nullable=False, server_default=false()),
    #: The lease on the storage: the number that is written there, known to this database alone;
    #: the one that is about to be; and when it was changed last.
    Column("lease", String(32)),
    Column("lease_next", String(32)),
    Column("lease_at", UtcDateTime),
    #: Somebody has said that this database goes on, whatever lease there is on the storage.
    Column("take_over", Boolean, nullable=False, server_default=false()),
    Column("total_bytes", BigInteger),
    Column("free_bytes", BigInteger),
    Column("grain_bytes", BigInteger),
    #: How many times its capacity may be promised.
    Column("overcommit", Float, nullable=False, server_default=text("1.0")),
    #: Jobs that may run on it at once, all workers together; null: no limit.
    Column("max_jobs", Integer),
    #: Hosts whose workers may act on it; null: any.
    Column("hosts", Json),
    #: What was wrong when it was last looked at; null: nothing.
    Column("error", Json),
    #: Since when it is out of reach; null: it is not.
    Column("unavailable_since", UtcDateTime),
    Column("refreshed_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint(_one_of("state", BackendState), name="state"),
)

#: The constraint that is violated where others have promised meanwhile what was free.
PROMISED_ABOVE_LIMIT = "ck_promises_limit"

#: What each backend has promised: the sizes of its volumes, and what unfinished jobs will
#: add. Every transaction that changes one of the two adds the difference as its last act.
#: What each backend has promised: one row, made with it and never removed.
promises = Table(
    "promises",
    metadata,
    Column("backend_id", ForeignKey("backends.id"), primary_key=True, autoincrement=False),
    #: Counts the changes. Whoever looks begins with the highest: under an old snapshot of somebody
    #: else's, all versions that there have been since remain in PostgreSQL's index.
    Column("version", BigInteger, primary_key=True, autoincrement=False, server_default=text("0")),
    Column("promised_bytes", BigInteger, nullable=False),
    #: The most that there may be, as whoever promised last knew it; null after anything else.
    Column("limit_bytes", BigInteger),
    CheckConstraint("promised_bytes <= limit_bytes", name="limit"),
)

policies = Table(
    "policies",
    metadata,
    Column("id", Integer, primary_key=True),
    #: What storage is stamped with, and jobs mean.
    Column("uid", String(32), nullable=False, unique=True),
    Column("backend_id", ForeignKey("backends.id"), nullable=False),
    Column("name", String(255), nullable=False),
    #: Ordered list of rules, as written.
    Column("rules", Json, nullable=False),
    Column("state", String(16), nullable=False),
    #: The storage's own key for it, where it has one.
    Column("native", String(64)),
    Column("created_by_job", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),
    CheckConstraint(_one_of("state", PolicyState), name="state"),
    CheckConstraint("(state = 'removed') = (removed_at IS NOT NULL)", name="removed"),
    Index(
        "uq_policies_live_name",
        "backend_id",
        "name",
        unique=True,
        sqlite_where=text("state <> 'removed'"),
        postgresql_where=text("state <> 'removed'"),
    ),
)

#: States that few volumes are in, and for long; those that are being made are found by their lanes.
RARE_VOLUME_STATES = (VolumeState.RESTRICTED, VolumeState.ERROR)
RARE_VOLUME = _one_of("state", RARE_VOLUME_STATES)

volumes = Table(
    "volumes",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("backend_id", ForeignKey("backends.id"), nullable=False),
    Column("name", String(255), nullable=False),
    #: What was asked for, and what there is (rounded up to the backend's grain).
    Column("requested_bytes", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("state", String(16), nullable=False),
    Column("metadata", Json, nullable=False),
    #: Its own values for parameters of the backend.
    Column("parameters", Json, nullable=False, server_default=text("'{}'")),
    #: How it behaves (`orchestrator.domain.volumes.VolumeSettings`), what is not usual.
    Column("settings", Json, nullable=False, server_default=text("'{}'")),
    #: The setting of this name, and whether it grows by itself: to be found by.
    Column("junction_path", String(255)),
    Column("autosize", Boolean, nullable=False, server_default=false()),
    #: Where hosts mount it from, and how much of its reserve its snapshots use.
    Column("address", String(255)),
    Column("snapshot_reserve_used_percent", Integer),
    Column("policy_id", ForeignKey("policies.id")),
    Column("parent_volume_id", String(32)),
    Column("parent_snapshot_id", String(32)),
    Column("created_by_job", BigInteger),
    #: Whose it is: the project of the token that had it made, or the name of that token.
    Column("account", String(64)),
    #: Why the state is 'error', or that it was forgotten.
    Column("detail", Text),
    #: When the engine looks again at what it could not see, and how often it has.
    Column("look_again_at", UtcDateTime),
    Column("looks", SmallInteger, nullable=False, server_default=text("0")),
    Column("created_at", UtcDateTime, nullable=False),
    Column("changed_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),
    CheckConstraint(_one_of("state", VolumeState), name="state"),
    CheckConstraint("size_bytes > 0 AND requested_bytes > 0", name="size"),
    CheckConstraint("(state = 'removed') = (removed_at IS NOT NULL)", name="removed"),
    # One live volume per backend and name.
    Index(
        "uq_volumes_live_name",
        "backend_id",
        "name",
        unique=True,
        sqlite_where=text("state <> 'removed'"),
        postgresql_where=text("state <> 'removed'"),
    ),
    # One live volume per backend and junction path.
    Index(
        "uq_volumes_live_junction",
        "backend_id",
        "junction_path",
        unique=True,
        sqlite_where=text("state <> 'removed' AND junction_path IS NOT NULL"),
        postgresql_where=text("state <> 'removed' AND junction_path IS NOT NULL"),
    ),
    Index(
        "ix_volumes_autosize",
        "backend_id",
        sqlite_where=text("autosize = 1"),
        postgresql_where=text("autosize"),
    ),
    Index(
        "ix_volumes_policy_id",
        "policy_id",
        sqlite_where=text("policy_id IS NOT NULL"),
        postgresql_where=text("policy_id IS NOT NULL"),
    ),
    # Lists of what is in error, or hidden.
    Index(
        "ix_volumes_rare",
        "backend_id",
        "name",
        sqlite_where=text(RARE_VOLUME),
        postgresql_where=text(RARE_VOLUME),
    ),
    # What is looked at again.
    Index(
        "ix_volumes_look_again_at",
        "look_again_at",
        sqlite_where=text("look_again_at IS NOT NULL"),
        postgresql_where=text("look_again_at IS NOT NULL"),
    ),
    # What an account has.
    Index(
        "ix_volumes_account",
        "account",
        "backend_id",
        sqlite_where=text("state <> 'removed'"),
        postgresql_where=text("state <> 'removed'"),
    ),
)

#: What each volume was from when until when: triggers on `volumes` write it, in the transaction
#: of each change, whoever makes it. Volumes are in it from when they are usable until they are
#: removed.
volume_versions = Table(
    "volume_versions",
    metadata,
    Column("volume_id", String(32), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("backend_id", Integer, nullable=False),
    Column("name", String(255), nullable=False),
    Column("state", String(16), nullable=False),
    Column("requested_bytes", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("policy_id", Integer),
    Column("account", String(64)),
    Column("metadata", Json, nullable=False),
    Column("valid_from", UtcDateTime, nullable=False),
    #: null: it still is.
    Column("valid_to", UtcDateTime),
    Index("ix_volume_versions_name", "backend_id", "name", "valid_from"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("volume_id", ForeignKey("volumes.id"), nullable=False),
    Column("name", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False, server_default=text("0")),
    #: Its place among the volume's snapshots, as the storage tells it; null: it does not, or the
    #: snapshot is being made (`orchestrator.resources.snapshot.order`).
    Column("position", BigInteger),
    Column("state", String(16), nullable=False),
    Column("created_by_job", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
    Column("removed_at", UtcDateTime),
    CheckConstraint(_one_of("state", SnapshotState), name="state"),
    CheckConstraint("(state = 'removed') = (removed_at IS NOT NULL)", name="removed"),
    Index(
        "uq_snapshots_live_name",
        "volume_id",
        "name",
        unique=True,
        sqlite_where=text("state <> 'removed'"),
        postgresql_where=text("state <> 'removed'"),
    ),
)

attachments = Table(
    "attachments",
    metadata,
    Column("volume_id", ForeignKey("volumes.id"), primary_key=True),
    Column("host", String(253), primary_key=True),
    Column("device", Text),
    Column("uris", Json, nullable=False),
    Column("read_only", Boolean, nullable=False),
    #: The boot of the host for which the device path means anything.
    Column("boot_id", String(64)),
    #: null: attached, not in use; else how the host has it open.
    Column("opening", String(16)),
    Column("attached_at", UtcDateTime, nullable=False),
    CheckConstraint("opening IS NULL OR opening IN ('shared', 'exclusive')", name="opening"),
    # At most one host has a volume open exclusively.
    Index(
        "uq_attachments_exclusive",
        "volume_id",
        unique=True,
        sqlite_where=text("opening = 'exclusive'"),
        postgresql_where=text("opening = 'exclusive'"),
    ),
)

#: The volume is the key: at most one lock per volume.
locks = Table(
    "locks",
    metadata,
    Column("volume_id", ForeignKey("volumes.id"), primary_key=True),
    Column("owner", String(253), nullable=False),
    Column("reason", Text),
    Column("taken_by", String(64), nullable=False),
    Column("taken_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
)

batches = Table(
    "batches",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("submitted_by", String(64), nullable=False),
    Column("reason", Text),
    Column("total", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False, server_default=text("0")),
    Column("failed", Integer, nullable=False, server_default=text("0")),
    Column("canceled", Integer, nullable=False, server_default=text("0")),
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    CheckConstraint("succeeded + failed + canceled <= total", name="counts"),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (succeeded + failed + canceled = total)", name="finished"
    ),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=False),
    Column("action", String(40), nullable=False),
    Column("backend_id", ForeignKey("backends.id"), nullable=False),
    Column("volume", String(255)),
    Column("snapshot", String(255)),
    Column("host", String(253)),
    Column("params", Json, nullable=False),
    #: The very volume (snapshot) meant: a later one of the same name is never touched.
    Column("volume_id", String(32)),
    Column("snapshot_id", String(32)),
    Column("state", String(16), nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    #: Its place among those of the same priority: submitters and batches take turns.
    Column("turn", BigInteger, nullable=False, server_default=text("0")),
    #: Which workers may take it.
    Column("queue", String(300), nullable=False),
    #: Whether a destructive job needs the 'success' or only the 'end' of those before it.
    Column("after", String(8), nullable=False, server_default="success"),
    #: Share of a claimed group it fills; the budget of a group is `GROUP_BUDGET`.
    Column("cost", SmallInteger, nullable=False),
    #: Room the backend will have to give for it, until it has ended.
    Column("promised_bytes", BigInteger, nullable=False, server_default=text("0")),
    #: Claimed at least once: from then on it keeps its lanes until it ends.
    Column("begun", Boolean, nullable=False, server_default=false()),
    #: Claims in all. Attempts are fewer where a claim was handed back at shutdown.
    Column("claims", Integer, nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("max_attempts", Integer, nullable=False),
    #: The number of the latest claim, and of the claim that wrote the outcome.
    Column("fence", BigInteger),
    Column("outcome_fence", BigInteger),
    Column("worker", String(64)),
    Column("lease_expires_at", UtcDateTime),
    Column("run_at", UtcDateTime),
    #: Not claimed before: the start time, or the end of a back-off.
    Column("not_before", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    Column("progress", Json),
    Column("result", Json),
    Column("error", Json),
    Column("submitted_by", String(64), nullable=False),
    #: Whose storage it makes, as `volumes.account`.
    Column("account", String(64)),
    Column("reason", Text),
    Column("batch_id", ForeignKey("batches.id")),
    Column("ref", String(64)),
    Column("retry_of", BigInteger),
    Column("created_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    CheckConstraint(_one_of("state", JobState), name="state"),
    CheckConstraint("priority BETWEEN -20 AND 19", name="priority"),
    CheckConstraint(f"({_finished}) = (finished_at IS NOT NULL)", name="finished"),
    # No outcome without the number of the latest claim: a late worker's cannot be stored.
    CheckConstraint(
        "state NOT IN ('succeeded', 'failed')"
        " OR (outcome_fence IS NOT NULL AND outcome_fence = fence)",
        name="fenced",
    ),
    CheckConstraint(
        "state <> 'running' OR (begun AND fence IS NOT NULL AND worker IS NOT NULL"
        " AND lease_expires_at IS NOT NULL)",
        name="leased",
    ),
    # What a claim reads.
    Index(
        "ix_jobs_queued",
        "queue",
        "priority",
        "turn",
        "id",
        sqlite_where=text("state = 'queued'"),
        postgresql_where=text("state = 'queued'"),
    ),
    # What the scheduler reads: leases that run out, times that come.
    Index(
        "ix_jobs_leases",
        "lease_expires_at",
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
    Index(
        "ix_jobs_due",
        "not_before",
        sqlite_where=text("state = 'waiting' AND not_before IS NOT NULL"),
        postgresql_where=text("state = 'waiting' AND not_before IS NOT NULL"),
    ),
    # Lists by state: what is unfinished, and what went wrong. What went well is found by id.
    Index(
        "ix_jobs_unfinished",
        "id",
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
    Index(
        "ix_jobs_unsuccessful",
        "id",
        sqlite_where=text("state IN ('failed', 'canceled')"),
        postgresql_where=text("state IN ('failed', 'canceled')"),
    ),
    Index("ix_jobs_target", "backend_id", "volume", "id"),
    # Lists by what few jobs have in common.
    Index("ix_jobs_action", "action", "id"),
    Index("ix_jobs_submitted_by", "submitted_by", "id"),
    Index(
        "ix_jobs_host",
        "host",
        "id",
        sqlite_where=text("host IS NOT NULL"),
        postgresql_where=text("host IS NOT NULL"),
    ),
    Index(
        "ix_jobs_snapshot",
        "snapshot",
        "id",
        sqlite_where=text("snapshot IS NOT NULL"),
        postgresql_where=text("snapshot IS NOT NULL"),
    ),
    Index(
        "ix_jobs_batch",
        "batch_id",
        "id",
        sqlite_where=text("batch_id IS NOT NULL"),
        postgresql_where=text("batch_id IS NOT NULL"),
    ),
)

#: What jobs are about besides their volume and their snapshot: few jobs have a row.
job_targets = Table(
    "job_targets",
    metadata,
    Column(
        "job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    Column("place", SmallInteger, primary_key=True, autoincrement=False),
    Column("role", String(16), nullable=False),
    Column("kind", String(16), nullable=False),
    #: The very object meant, as `jobs.volume_id`.
    Column("object_id", String(32)),
    Column("name", String(255)),
    # What names an object.
    Index("ix_job_targets_named", "kind", "name", "job_id"),
)

#: The lanes of unfinished jobs; rows go when their job ends.
job_lanes = Table(
    "job_lanes",
    metadata,
    Column("lane", String(330), primary_key=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("begun", Boolean, nullable=False, server_default=false()),
    Index("ix_job_lanes_job_id", "job_id"),
    # One begun job per lane, whatever the code above believes.
    Index(
        "uq_job_lanes_begun",
        "lane",
        unique=True,
        sqlite_where=text("begun"),
        postgresql_where=text("begun"),
    ),
)

job_dependencies = Table(
    "job_dependencies",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("depends_on", BigInteger, primary_key=True),
    #: 'asked' by the submitter, or 'order': a destructive job after its lane.
    Column("kind", String(8), nullable=False),
    Index("ix_job_dependencies_depends_on", "depends_on"),
    CheckConstraint("job_id <> depends_on", name="not_itself"),
)

#: How each attempt ended that did not end the job well.
#: When the last attempt at an action was made on a backend, where there is a limit of its rate;
#: and the turns that jobs have been promised.
rates = Table(
    "rates",
    metadata,
    Column("backend_id", ForeignKey("backends.id"), primary_key=True, autoincrement=False),
    Column("action", String(40), primary_key=True),
    Column("last_at", UtcDateTime, nullable=False),
)
job_turns = Table(
    "job_turns",
    metadata,
    Column(
        "job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    Column("backend_id", ForeignKey("backends.id"), nullable=False),
    Column("action", String(40), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

#: Jobs that a person has to approve; until then their `jobs.not_before` never comes.
job_approvals = Table(
    "job_approvals",
    metadata,
    Column(
        "job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    Column("approved_by", String(64)),
    Column("approved_at", UtcDateTime),
    CheckConstraint("(approved_by IS NULL) = (approved_at IS NULL)", name="approved"),
)

#: Ended jobs that somebody wants archived before their time.
job_archivals = Table(
    "job_archivals",
    metadata,
    Column(
        "job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
)

job_attempts = Table(
    "job_attempts",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", String(64)),
    Column("ended_at", UtcDateTime, nullable=False),
    #: failed, retried, canceled, lost (the lease ran out), handed_back, limited or outage.
    Column("outcome", String(16), nullable=False),
    Column("error", Json),
)

#: The journal: what was about to be done, committed before it was done.
job_steps = Table(
    "job_steps",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("fence", BigInteger, nullable=False),
    Column("name", String(40), nullable=False),
    Column("state", String(8), nullable=False),
    Column("detail", Json),
    Column("at", UtcDateTime, nullable=False),
    CheckConstraint("state IN ('intended', 'done')", name="state"),
)

#: Transactions that wrote history. Numbers are given after commit, by one sequencer: one
#: row for each transaction, however many events it has.
event_commits = Table(
    "event_commits",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=False),
    Column("events", Integer, nullable=False),
    #: The number before that of its first event; null until the sequencer has seen it.
    Column("base", BigInteger, unique=True),
    #: How far its id is below the highest that had got a number before it: it was committed late.
    #: null: it is above all of them.
    Column("behind", BigInteger),
    CheckConstraint("events > 0", name="events"),
    Index(
        "ix_event_commits_unnumbered",
        "id",
        sqlite_where=text("base IS NULL"),
        postgresql_where=text("base IS NULL"),
    ),
    # The furthest of all.
    Index(
        "ix_event_commits_behind",
        "behind",
        sqlite_where=text("behind IS NOT NULL"),
        postgresql_where=text("behind IS NOT NULL"),
    ),
)

#: A link for each numbered commit, in their order: see `orchestrator.ledger.chain`.
event_chain = Table(
    "event_chain",
    metadata,
    Column("base", BigId, primary_key=True, autoincrement=False),
    Column("commit_id", BigInteger, nullable=False),
    Column("events", Integer, nullable=False),
    #: Of each of its events.
    Column("digests", LargeBinary, nullable=False),
    Column("link", LargeBinary, nullable=False),
    #: What digests and link cover.
    Column("format", SmallInteger, nullable=False, server_default=text("1")),
)

#: Events that have left the database for files, in the order of their numbers.
event_archives = Table(
    "event_archives",
    metadata,
    #: The number before that of its first event, and the number of its last.
    Column("base", BigId, primary_key=True, autoincrement=False),
    Column("last", BigInteger, nullable=False),
    Column("file", String(255), nullable=False),
    Column("sha256", String(64), nullable=False),
    #: The links of the chain before its first event and at its last.
    Column("link_before", LargeBinary, nullable=False),
    Column("link_after", LargeBinary, nullable=False),
    #: The format of the link at its last event.
    Column("format", SmallInteger, nullable=False, server_default=text("1")),
    Column("archived_at", UtcDateTime, nullable=False),
    #: The file was deleted, as the retention says.
    Column("deleted_at", UtcDateTime),
    CheckConstraint("last > base", name="events"),
)

#: Kinds of which every job has one: those are found soon without an index, which leaves them out.
USUAL_EVENTS = (EventKind.JOB_SUBMITTED, EventKind.JOB_STARTED, EventKind.JOB_SUCCEEDED)
UNUSUAL_EVENT = _one_of("kind NOT", USUAL_EVENTS)

#: History. The number of an event is its commit's base and its own place in it.
events = Table(
    "events",
    metadata,
    Column("commit_id", BigInteger, primary_key=True, autoincrement=False),
    #: Its place among the events of its commit, from 1.
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("backend", String(63)),
    Column("volume", String(255)),
    Column("volume_id", String(32)),
    Column("snapshot", String(255)),
    Column("policy", String(255)),
    Column("job_id", BigInteger),
    Column("actor", String(64), nullable=False),
    Column("reason", Text),
    #: What changed: {"before": {…}, "after": {…}} and further facts.
    Column("data", Json),
    #: Further objects than the columns name: `orchestrator.history.events.Named`.
    Column("objects", Json),
    Index("ix_events_job_id", "job_id"),
    Index("ix_events_volume", "backend", "volume", "commit_id"),
    Index(
        "ix_events_kind",
        "kind",
        "commit_id",
        sqlite_where=text(UNUSUAL_EVENT),
        postgresql_where=text(UNUSUAL_EVENT),
    ),
)

#: An index over `events.objects`, written by triggers: what is true is in the events.
event_objects = Table(
    "event_objects",
    metadata,
    Column("commit_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("role", String(20), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("object_id", String(64)),
    Column("backend", String(63)),
    Column("name", String(255), nullable=False),
    Index("ix_event_objects_object_id", "object_id", "commit_id"),
    Index("ix_event_objects_name", "kind", "backend", "name", "commit_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("job_id", BigInteger),
    Column("batch_id", BigInteger),
    #: Of a call that submits no job.
    Column("answer", Json),
    Column("created_at", UtcDateTime, nullable=False),
    CheckConstraint(
        "(CASE WHEN job_id IS NULL THEN 0 ELSE 1 END)"
        " + (CASE WHEN batch_id IS NULL THEN 0 ELSE 1 END)"
        " + (CASE WHEN answer IS NULL THEN 0 ELSE 1 END) = 1",
        name="answer",
    ),
    Index("ix_idempotency_keys_created_at", "created_at"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    #: What is made with it counts for this project; null: for the token's own name.
    Column("project", String(64)),
    #: SHA-256 of the secret part; the secret itself is told once and kept nowhere.
    Column("digest", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    CheckConstraint(_one_of("role", Role), name="role"),
    Index(
        "uq_tokens_live_name",
        "name",
        unique=True,
        sqlite_where=text("revoked_at IS NULL"),
        postgresql_where=text("revoked_at IS NULL"),
    ),
)

#: Sessions of people who signed in with a token: each ends with it, or before.
sessions = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("token_id", ForeignKey("tokens.id"), nullable=False),
    #: SHA-256 of the secret part of the cookie; and of the one before, which requests that were
    #: on their way still bring.
    Column("digest", String(64), nullable=False),
    Column("digest_before", String(64)),
    #: What the forms of its pages hold, and a page from elsewhere does not.
    Column("form_token", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("renewed_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Index("ix_sessions_token_id", "token_id"),
)

#: Worker processes, alive while they are seen.
workers = Table(
    "workers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", String(253), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("boot_id", String(64)),
    Column("queues", Json, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Index("ix_workers_host", "host"),
)

#: The most that an account may have on a backend; null: no limit.
quotas = Table(
    "quotas",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("backend_id", ForeignKey("backends.id"), primary_key=True, autoincrement=False),
    Column("max_bytes", BigInteger),
    Column("max_volumes", Integer),
    Column("max_snapshots", Integer),
    Column("set_by", String(64), nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
)

#: Differences between a backend and its record. One that persists stays one row.
findings = Table(
    "findings",
    metadata,
    Column("id", BigId, primary_key=True),
    Column("backend_id", ForeignKey("backends.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    #: What it is about, in a form that is the same at each audit.
    Column("subject", String(600), nullable=False),
    Column("volume", String(255)),
    Column("volume_id", String(32)),
    Column("snapshot", String(255)),
    Column("policy", String(255)),
    Column("host", String(253)),
    Column("job_id", BigInteger),
    #: One sentence for people.
    Column("text", Text, nullable=False),
    #: {"recorded": …, "found": …} and what else repairs need to know.
    Column("detail", Json, nullable=False),
    Column("state", String(8), nullable=False),
    Column("first_seen_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    #: The audit that saw it last.
    Column("last_seen_by", BigInteger, nullable=False),
    Column("closed_at", UtcDateTime),
    #: The latest job that was to repair it.
    Column("repair_job", BigInteger),
    CheckConstraint(_one_of("kind", FindingKind), name="kind"),
    CheckConstraint(_one_of("state", FindingState), name="state"),
    CheckConstraint("(state = 'closed') = (closed_at IS NOT NULL)", name="closed"),
    Index(
        "uq_findings_open",
        "backend_id",
        "kind",
        "subject",
        unique=True,
        sqlite_where=text("state = 'open'"),
        postgresql_where=text("state = 'open'"),
    ),
    Index("ix_findings_backend_id", "backend_id", "id"),
)

#: The latest audit of each backend that could read it whole.
audits = Table(
    "audits",
    metadata,
    Column("backend_id", ForeignKey("backends.id"), primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    #: Volumes in the inventory, and on the storage.
    Column("recorded", Integer, nullable=False),
    Column("found", Integer, nullable=False),
)

#: What is done again and again.
schedules = Table(
    "schedules",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("cron", String(128), nullable=False),
    #: An action, or 'events.export'.
    Column("action", String(40), nullable=False),
    Column("backend_id", ForeignKey("backends.id")),
    #: Patterns of names, of the volumes that it is done to.
    Column("volumes", Json),
    Column("params", Json, nullable=False),
    #: How many of the snapshots that it made are kept: {"last": …, "hourly": …, …}.
    Column("keep", Json),
    Column("enabled", Boolean, nullable=False, server_default=true()),
    Column("reason", Text),
    Column("created_by", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    #: The latest time for which it ran; when it ran last, and what came of it.
    Column("last_due_at", UtcDateTime),
    Column("last_run_at", UtcDateTime),
    Column("last_result", Json),
    Index(
        "ix_schedules_next_at",
        "next_at",
        sqlite_where=text("enabled"),
        postgresql_where=text("enabled"),
    ),
    # Its number is never another's: what a schedule made is its own after it was removed, too.
    sqlite_autoincrement=True,
)

#: Jobs that schedules have submitted; they stay when the jobs are archived.
schedule_jobs = Table(
    "schedule_jobs",
    metadata,
    Column("job_id", BigId, primary_key=True, autoincrement=False),
    Column("schedule_id", Integer, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Index("ix_schedule_jobs_schedule_id", "schedule_id", "due_at"),
)

#: How full each backend was at the last look of each day (UTC).
capacity_days = Table(
    "capacity_days",
    metadata,
    Column("backend_id", ForeignKey("backends.id"), primary_key=True, autoincrement=False),
    Column("day", Date, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("total_bytes", BigInteger),
    Column("free_bytes", BigInteger),
    Column("promised_bytes", BigInteger, nullable=False),
    Column("volumes", Integer, nullable=False),
    Column("volume_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("snapshots", Integer, nullable=False),
)
