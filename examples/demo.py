"""The demo: everything on this machine, in a scratch directory, from nothing to a clean end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestrator.cli.batch_files import read_batch
from orchestrator.client import Client
from orchestrator.contract.jobs import Batch
from orchestrator.domain.errors import Problem
from orchestrator.domain.sizes import format_size

FLEET = Path(__file__).with_name("fleet.csv")
START_SECONDS = 60.0

console = Console()


def main() -> int:
    """Run the demo; 0 if every job did what it should."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-demo-") as scratch:
        directory = Path(scratch)
        volumes = directory / "volumes"
        volumes.mkdir()
        config = directory / "orchestrator.toml"
        config.write_text(f'[backends.fast]\ndriver = "file"\npath = "{volumes}"\n')
        console.rule("orchestrator up")
        url = _free_url()
        up = _start(url, directory, config)
        try:
            token = _wait_until_ready(directory / "data" / "token", up)
            with Client(url, token) as client:
                done = _show(client, volumes)
        finally:
            up.send_signal(signal.SIGINT)
            status = up.wait(60)
        console.rule("everything is down again")
    return 0 if done and status == 0 else 1


def _free_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def _start(url: str, directory: Path, config: Path) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if "ORCHESTRATOR" not in name}
    arguments = {
        "--data": str(directory / "data"),
        "--listen": url.removeprefix("http://"),
        "--config": str(config),
    }
    words = [word for pair in arguments.items() for word in pair]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "up", *words], env=kept, start_new_session=True
    )


def _wait_until_ready(token: Path, up: subprocess.Popen[bytes]) -> str:
    """The local token, which is written once requests are served."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and up.poll() is None:
        if token.exists():
            return token.read_text().strip()
        time.sleep(0.05)
    raise SystemExit("the service did not come up; its messages are above")


def _show(client: Client, volumes: Path) -> bool:
    console.rule(f"a fleet of 200 volumes, from {FLEET.name}")
    batches = [_run(client, "create", read_batch(FLEET).jobs)]
    images = [path for path in volumes.rglob("*.img") if path.is_file()]
    console.print(f"{len(images)} images on the file system, {_on_disk(images)} of disk in use")

    console.rule("changes in the background")
    batches += [_run(client, what, jobs) for what, jobs in _changes().items()]

    console.rule("what exists now")
    _print_volumes(client)
    console.rule("what each kind of job took")
    _print_durations(client)
    console.rule("why a request is refused")
    _print_refusal(client)
    console.rule("the history of one volume, from the database")
    _print_history(client, "db/01")
    return all(batch.state == "succeeded" for batch in batches)


def _changes() -> dict[str, list[dict[str, Any]]]:
    def each(action: str, names: list[str], **more: Any) -> list[dict[str, Any]]:
        return [{"action": action, "backend": "fast", "volume": name, **more} for name in names]

    databases = [f"db/{n:02d}" for n in range(1, 21)]
    caches = [f"cache/{n:02d}" for n in range(1, 41)]
    clones = [
        {
            "action": "volume.clone",
            "backend": "fast",
            "volume": f"test/{n:02d}",
            "snapshot": "nightly",
            "params": {"source": f"db/{n:02d}"},
        }
        for n in range(1, 11)
    ]
    return {
        "grow": each("volume.grow", databases, params={"size_bytes": "2G"}),
        "snapshot": each("snapshot.create", databases, snapshot="nightly"),
        "clone": clones,
        "remove": each("volume.remove", caches),
    }


def _run(client: Client, what: str, jobs: list[dict[str, Any]]) -> Batch:
    """Submit a batch and show how it comes along."""
    columns = (
        TextColumn(f"{what:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(what, total=len(jobs))

        def seen(batch: Batch) -> None:
            progress.update(bar, completed=batch.total - batch.unfinished)

        accepted = client.batch(jobs, reason=f"demo: {what}")
        batch = client.wait_batch(accepted.id, seen=seen)
        seen(batch)
        return batch


def _on_disk(images: list[Path]) -> str:
    return format_size(sum(path.stat().st_blocks * 512 for path in images))


def _print_volumes(client: Client) -> None:
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for volume in client.volumes("fast"):
        kind = volume.name.partition("/")[0]
        kinds[kind] += 1
        sizes[kind] += volume.size_bytes
    table = Table("kind", "volumes", "size in all", box=None)
    for kind in sorted(kinds):
        table.add_row(kind, str(kinds[kind]), format_size(sizes[kind]))
    console.print(table)


def _print_durations(client: Client) -> None:
    taken: dict[str, list[float]] = {}
    for job in client.jobs():
        if job.started_at and job.finished_at:
            seconds = (job.finished_at - job.started_at).total_seconds()
            taken.setdefault(job.action, []).append(seconds)
    table = Table("action", "jobs", "median ms", "longest ms", box=None)
    for action, times in sorted(taken.items()):
        ordered = sorted(times)
        middle, longest = ordered[len(ordered) // 2], ordered[-1]
        table.add_row(action, str(len(ordered)), f"{middle * 1e3:.1f}", f"{longest * 1e3:.1f}")
    console.print(table)


def _print_refusal(client: Client) -> None:
    try:
        client.volume.grow("fast", "db/01", size="1M")
    except Problem as problem:
        console.print(f"{problem.code} ({problem.field}): {problem.detail}")


def _print_history(client: Client, name: str) -> None:
    table = Table("number", "at", "what", "by", "job", box=None)
    for event in client.events(backend="fast", volume=name):
        text = (event.data or {}).get("text", event.kind)
        table.add_row(
            str(event.number), f"{event.at:%F %T}", text, event.actor, str(event.job_id or "")
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
