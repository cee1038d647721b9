"""One cell's world: an installation of the product on a ground, stepped by the test.

Real database, broker, driver and storage, the product's own worker and scheduler; each lives in
this process, so that others can come in between any two of its steps.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import and_, or_, select, update

from orchestrator.findings.recording import list_findings
from orchestrator.findings.repairing import finding_view, repair_submission
from orchestrator.inventory.hosts import gone, seen
from orchestrator.jobs.approvals import approve
from orchestrator.jobs.submit import submit
from orchestrator.ledger import restored
from orchestrator.machine import boot_id
from orchestrator.settings import SchedulerSettings, Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import (
    attachments,
    backends,
    installation,
    jobs,
    snapshots,
    volumes,
)
from tests.data.databases import Databases
from tests.data.grounds import Ground
from tests.data.model import Model, Volume
from tests.data.patterns import pattern, written
from tests.engine.conftest import ADMIN, Engine
from workers.backends.base.facts import VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.scheduler import Scheduler

BACKEND, SIDE = "store", "side"
HERE, ELSEWHERE = "here", "elsewhere"
#: How long ago everything was, once time has passed.
HOUR = 3600.0
#: Rounds of time passing, after which nothing more comes of it.
ROUNDS = 8
Request = dict[str, Any]


class Site:
    """An installation, its model, and what persons have put there."""

    def __init__(
        self,
        ground: Ground,
        directory: Path,
        databases: Databases,
        broker_url: str,
        exchange: Path | None = None,
        **audit: Any,
    ) -> None:
        """``exchange``: the directory of images and exports; one beside ``directory`` if None."""
        self.ground = ground
        self.databases = databases
        self.database_url = databases.create(directory)
        _be_another(self.database_url)
        self.directory = directory
        self.exchange = exchange or directory.with_name(f"{directory.name}-exchange")
        self.exchange.mkdir()
        (self.exchange / "image").write_bytes(pattern("image", 1))
        (directory / "side").mkdir()
        self.settings = Settings(
            data=directory,
            host=HERE,
            database={"url": self.database_url},
            broker={"url": broker_url},
            backends={
                BACKEND: ground.settings(),
                SIDE: {"driver": "file", "path": str(directory / "side")},
            },
            transfer={"import_from": [str(self.exchange)], "export_to": [str(self.exchange)]},
            worker={"lease_seconds": HOUR, "heartbeat_seconds": 1.0},
            retry={"first_seconds": 0.01, "most_seconds": 0.02},
            audit={"grace_hours": 0.0, "most_percent": 100.0, **audit},
        )
        self.model = Model()
        #: How often each volume was written to.
        self.generations: dict[str, int] = {}
        self.engine = Engine(self.settings, Database(self.settings.database_url))
        self._scheduler: Scheduler | None = None

    def another(self, directory: Path) -> Site:
        """An installation that is a copy of this one, with a data directory of its own."""
        self._disconnect()
        made = copy(self)
        made.directory = directory
        made.database_url = self.databases.copy(self.database_url, directory)
        database_name = self.database_url.rpartition("/")[2]
        for path in self.directory.iterdir():
            if path.is_file() and not path.name.startswith(database_name):
                shutil.copy2(path, directory)
        made.settings = self.settings.model_copy(
            update={
                "data": directory,
                "database": self.settings.database.model_copy(update={"url": made.database_url}),
            }
        )
        made._scheduler = None
        made.engine = Engine(made.settings, Database(made.settings.database_url))
        return made

    # -- the product ----------------------------------------------------------------------

    def restart(self) -> None:
        """End every process of the product, and start them again."""
        self.end()
        self.engine = Engine(self.settings, Database(self.settings.database_url))

    def save(self, directory: Path) -> str:
        """Keep the database as it is now; the URL of the copy."""
        self._disconnect()
        return self.databases.copy(self.database_url, directory)

    def restore(self, kept: str) -> None:
        """Put back what was kept, while no process of the product is there."""
        self.end()
        self.databases.replace(self.database_url, kept)
        self.databases.drop(kept)
        self.restart()

    def _disconnect(self) -> None:
        self._end_scheduler()
        self.engine.database.close()

    def _end_scheduler(self) -> None:
        if self._scheduler is not None:
            self._scheduler.close()
            self._scheduler = None

    def end(self) -> None:
        self._end_scheduler()
        self.engine.database.transact(lambda connection: gone(connection, "worker-1"))
        self.engine.worker.serving.leases.release()
        self.engine.worker.leases.close()
        self.engine.close()

    def close(self) -> None:
        """Leave nothing."""
        self.end()
        self.databases.drop(self.database_url)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def scheduler(self) -> Scheduler:
        if self._scheduler is None:
            eager = SchedulerSettings(tick_seconds=1e-6, relay_seconds=1e-6)
            self._scheduler = Scheduler(self.settings.model_copy(update={"scheduler": eager}))
        return self._scheduler

    def sign_of_life(self) -> None:
        """The workers of this host count as alive."""

        def tell(connection: Any) -> None:
            seen(
                connection,
                "worker-1",
                host=HERE,
                pid=1,
                boot_id=boot_id(),
                queues=self.engine.worker.runner.queues,
            )

        self.engine.database.transact(tell)

    def submit(self, request: Request) -> int:
        """Submit; the job's number. Raises what refuses it."""
        self.sign_of_life()
        [job_id] = self.engine.submit({"backend": BACKEND, **request}).job_ids
        if self.job(job_id)["waiting_on"]:
            waiting = self.job(job_id)["waiting_on"]
            if waiting["kind"] == "approval":
                self.engine.database.transact(lambda c: approve(c, job_id, ADMIN, "tests"))
        return job_id

    def work(self) -> None:
        """Let the worker do what there is to do now."""
        for _ in range(3):
            self.engine.work()

    def job(self, job_id: int) -> dict[str, Any]:
        return dict(self.engine.job(job_id))

    def done(self, request: Request) -> dict[str, Any]:
        """Do this to its end; the job."""
        job_id = self.submit(request)
        self.rest()
        return self.job(job_id)

    def do(self, request: Request) -> dict[str, Any]:
        """Do this, which must succeed, and play it into the model."""
        job = self.done(request)
        if job["state"] != "succeeded":
            raise Unprepared(f"{request} {job['state']}: {job['error']}")
        self.play(request, job)
        return job

    def play(self, request: Request, job: dict[str, Any]) -> None:
        """What a job that succeeded must have done, in the model."""
        if request.get("backend", BACKEND) != BACKEND:
            return
        made = self._made(job)
        self.model.play(request, made)
        if request["action"] == "volume.adopt":
            volume, rows = self.model.volumes[request["volume"]], self.recorded_snapshots
            # What is not recorded keeps the id that the storage no longer has.
            new = {name: row.id for name, row in rows(volume.id).items()}
            volume.snapshots = {
                name: replace(one, id=new.get(name, one.id))
                for name, one in volume.snapshots.items()
            }

    def _made(self, job: dict[str, Any]) -> dict[str, str]:
        with self.engine.database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job["id"])).one()
            made = {"volume": row.volume_id}
            if row.action == "snapshot.create":
                query = select(snapshots.c.id).where(
                    snapshots.c.volume_id == row.volume_id, snapshots.c.name == row.snapshot
                )
                made["snapshot"] = connection.execute(query).scalars().all()[-1]
        return made

    def rest(self) -> None:
        """Let time pass until nothing more comes of it."""
        self.work()
        for _ in range(ROUNDS):
            if not self.restless:
                return
            self.time_passes()

    def time_passes(self) -> None:
        """An hour goes by, and everyone does what there is to do."""
        self.engine.database.transact(self._age)
        self.sign_of_life()
        self.scheduler._due = [0.0] * len(self.scheduler._due)
        self.scheduler.tick()
        self.engine.worker.serving.leases.renew_due()
        self.engine.worker.serving.look_at_unusable()
        self.work()

    @property
    def restless(self) -> bool:
        """Whether something has not come to its end."""
        with self.engine.database.read() as connection:
            unfinished = connection.execute(
                select(jobs.c.id).where(jobs.c.finished_at.is_(None)).limit(1)
            ).scalar()
            stuck = connection.execute(
                select(volumes.c.id)
                .where(
                    or_(
                        volumes.c.state.in_(("pending", "error")),
                        # Of one that is available a snapshot is to be looked at again.
                        and_(volumes.c.look_again_at.is_not(None), volumes.c.state != "removed"),
                    )
                )
                .limit(1)
            ).scalar()
            unusable = connection.execute(
                select(backends.c.id).where(backends.c.error.is_not(None)).limit(1)
            ).scalar()
        return unfinished is not None or stuck is not None or unusable is not None

    @staticmethod
    def _age(connection: Any) -> None:
        """The clock of the database cannot be set, so the times in its rows are set back."""
        for table, name, condition in (
            (jobs, "not_before", jobs.c.not_before.is_not(None)),
            (jobs, "lease_expires_at", jobs.c.state == "running"),
            (jobs, "queued_at", jobs.c.state == "queued"),
            (volumes, "look_again_at", volumes.c.state != "removed"),
        ):
            if name in table.c:
                connection.execute(
                    update(table)
                    .where(condition, table.c[name].is_not(None))
                    .values({name: db_now(-HOUR)})
                )

    def verify_what_was_missing(self) -> None:
        """Whoever puts back what he took away has it verified, as the error says."""
        for name, row in self.recorded().items():
            missing = (one.state == "error" for one in self.recorded_snapshots(row.id).values())
            if row.state == "error" or any(missing):
                self.done({"action": "volume.verify", "volume": name})

    def remember(self) -> None:
        """The scheduler has seen all events so far, and keeps beside the database how far it is."""
        self.scheduler._number_events()
        self.scheduler._busy_until = 0.0
        self.scheduler._chain_events()
        self.scheduler._watch_restores()

    def see_to_a_restore(self) -> None:
        """Do what the product says is to be done about a database that was put back."""
        self.time_passes()
        for backend in (BACKEND, SIDE):
            params = {"accept_identity": True}
            job = self.done({"action": "backend.verify", "backend": backend, "params": params})
            if job["state"] != "succeeded":
                raise Unprepared(f"a restore cannot be seen to: {job['error']}")
        self.engine.database.transact(lambda c: restored.acknowledge(c, "tests", None))

    def audit(self) -> list[dict[str, Any]]:
        """Audit, which must be possible by now; the findings that are open."""
        job = self.done({"action": "backend.audit", "host": HERE})
        if job["state"] != "succeeded":
            raise Broken(f"the audit {job['state']}: {job['error']}")
        return self.findings()

    def findings(self) -> list[dict[str, Any]]:
        """The findings that are open."""
        with self.engine.database.read() as connection:
            rows = list_findings(connection, {"state": "open"}, before=None, limit=1000)
            views = [finding_view({**row}) for row in rows if row["backend"] == BACKEND]
            return [dict(view) for view in views]

    def repair(self, finding: int, name: str) -> dict[str, Any]:
        """Repair a finding, approved."""
        with self.engine.database.read() as connection:
            wanted = repair_submission(connection, finding, name, ADMIN)
        [job_id] = self.engine.database.transact(
            lambda c: submit(c, wanted, max_attempts=5)
        ).job_ids
        if (self.job(job_id)["waiting_on"] or {}).get("kind") == "approval":
            self.engine.database.transact(lambda c: approve(c, job_id, ADMIN, "tests"))
        self.rest()
        return self.job(job_id)

    # -- the record -----------------------------------------------------------------------

    def recorded(self) -> dict[str, Any]:
        """The rows of volumes that are not removed, by name."""
        with self.engine.database.read() as connection:
            rows = connection.execute(
                select(volumes)
                .join(backends, backends.c.id == volumes.c.backend_id)
                .where(backends.c.name == BACKEND, volumes.c.state != "removed")
            ).all()
        return {row.name: row for row in rows}

    def recorded_snapshots(self, volume_id: str) -> dict[str, Any]:
        """The rows of its snapshots that are not removed, by name."""
        with self.engine.database.read() as connection:
            rows = connection.execute(
                select(snapshots).where(
                    snapshots.c.volume_id == volume_id, snapshots.c.state != "removed"
                )
            ).all()
        return {row.name: row for row in rows}

    def attached(self, volume_id: str) -> list[Any]:
        """The rows of its attachments."""
        with self.engine.database.read() as connection:
            query = select(attachments).where(attachments.c.volume_id == volume_id)
            return list(connection.execute(query).all())

    def volume(self, name: str) -> Volume:
        """The volume of this name. Raises `Without` if there is none at the moment."""
        found = self.model.named(name)
        if found is None:
            raise Without("there is no such volume at that moment")
        return found

    def told(self, volume: Volume) -> int | None:
        """The size that the storage tells of a volume."""
        drivers, names = self.engine.worker.serving.drivers, self.engine.worker.serving.names
        [driver] = [one for id_, one in drivers.items() if names[id_] == BACKEND]
        look = driver.inspect(VolumeRef(volume.id, volume.name))
        return look.size_bytes if isinstance(look, VolumeFacts) else None

    # -- users ----------------------------------------------------------------------------

    def device(self, name: str) -> str | None:
        """The device that this host has for a volume, as it is recorded."""
        rows = self.attached(self.volume(name).id)
        return next((row.device for row in rows if row.host == HERE), None)

    def attach(self, name: str) -> str:
        """Attach; the device."""
        self.do({"action": "volume.attach", "volume": name, "host": HERE})
        device = self.device(name)
        assert device is not None
        return device

    def detach(self, name: str) -> None:
        self.do({"action": "volume.detach", "volume": name, "host": HERE})

    def write(self, name: str) -> None:
        """A user writes all of a volume anew, through its device where it has one."""
        volume = self.model.volumes[name]
        generation = self.generations[name] = self.generations.get(name, 0) + 1
        data = pattern(name, generation)
        device = self.device(name)
        if device is not None:
            with Path(device).open("r+b", buffering=0) as file:
                write_pieces(file, data)
        else:
            self.ground.write(volume.id, data)
        volume.contents = data

    def close_to(self, name: str) -> Iterator[Path]:
        """The images of a volume and its snapshots."""
        volume = self.volume(name)
        if (path := self.ground.image(volume.id)) is not None:
            yield path
        for kept in volume.snapshots.values():
            if (path := self.ground.snapshot_image(volume.id, kept.id)) is not None:
                yield path

    @contextmanager
    def seen_as_truth(self) -> Iterator[None]:
        """Buffers of devices are written to the images before somebody looks at these."""
        for rows in (self.attached(one.id) for one in self.model.volumes.values()):
            for row in rows:
                if row.host == HERE and row.device:
                    subprocess.run(["blockdev", "--flushbufs", row.device], capture_output=True)
        yield


def _be_another(url: str) -> None:
    """Tell an installation from others whose database was made of the same template."""
    database = Database(url, pool_size=1)
    with database.write() as connection:
        connection.execute(update(installation).values(uuid=uuid.uuid4().hex))
    database.close()


def write_pieces(file: Any, data: bytes) -> None:
    """Write what is not left as a hole, and on to the disk."""
    for start, end in written():
        file.seek(start)
        file.write(data[start:end])
    os.fsync(file.fileno())


class Without(Exception):
    """The cell does not apply here; why."""


class Unprepared(AssertionError):
    """What a cell starts from could not be brought about."""


class Broken(AssertionError):
    """An invariant does not hold; each line tells one."""
