"""Clients that do everything there is to do, each with volumes of its own."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import httpx

from tests.chaos.cases import BACKEND, MIB, NETWORK, READER, WEB, Request
from tests.chaos.product import Shaken, accept


def life(
    name: str, host: str, chance: random.Random, *, policies: bool = False
) -> Iterator[Request]:
    """The life of one volume: every action, in an order that makes sense.

    ``policies``: the backend has export policies, so the volume gets one of its own.
    """

    def act(action: str, **more: object) -> Request:
        return {"action": action, "backend": BACKEND, "volume": name, **more}

    def attach() -> list[Request]:
        exclusive = {"exclusive": chance.random() < 0.5}
        return [
            act("volume.attach", host=host),
            act("volume.open", host=host, params=exclusive),
            act("volume.close", host=host),
            act("volume.detach", host=host),
        ]

    def describe() -> list[Request]:
        value = str(chance.randrange(1000))
        return [
            act("volume.update", params={"metadata": {"stage": value}}),
            act("volume.set_info", params={"info": value}),
            act("volume.verify"),
        ]

    def keep() -> list[Request]:
        return [
            act("snapshot.create", snapshot="old"),
            act("snapshot.create", snapshot="new"),
            act("volume.rollback", snapshot="old", params={"discard_newer": True}),
            act("snapshot.delete", snapshot="old"),
        ]

    def copy() -> list[Request]:
        clone = {**act("volume.clone", params={"source": name}), "volume": f"{name}.copy"}
        return [clone, {**act("volume.remove"), "volume": f"{name}.copy"}]

    def hide() -> list[Request]:
        return [act("volume.restrict"), act("volume.unrestrict"), act("volume.wipe")]

    def rename() -> list[Request]:
        there = {**act("volume.rename", params={"new_name": f"{name}.new"})}
        back = {**act("volume.rename", params={"new_name": name}), "volume": f"{name}.new"}
        return [there, back]

    def on_policy(verb: str, policy: str = f"{name}.p", **params: object) -> Request:
        action = f"policy.{verb}"
        return {"action": action, "backend": BACKEND, "policy": policy, "params": params}

    def export() -> list[Request]:
        return [
            on_policy("create", rules=[NETWORK]),
            act("policy.assign", policy=f"{name}.p"),
            act("volume.update", params={"settings": {"junction_path": f"/{name}"}}),
            on_policy("add_rule", rule=READER),
            on_policy("remove_rule", rule=NETWORK),
            on_policy("set_rules", rules=[WEB, READER]),
            on_policy("reapply"),
            *([act("policy.assign")] if chance.random() < 0.5 else []),
            on_policy("create", f"{name}.q", rules=[WEB]),
            on_policy("remove", f"{name}.q"),
        ]

    yield act("volume.create", params={"size_bytes": MIB})
    parts = [attach, describe, keep, copy, hide, rename, *([export] if policies else [])]
    chance.shuffle(parts)
    for size, part in enumerate(parts, start=2):
        yield from part()
        yield act("volume.grow", params={"size_bytes": size * MIB})
    match chance.randrange(3):
        case 0:
            yield act("volume.remove")
        case 1:
            yield act("volume.restrict")
            yield act("volume.purge")
        case _:
            yield act("volume.verify")


def of_backend(rounds: int) -> Iterator[Request]:
    """What an administrator does to the backend meanwhile."""
    for _ in range(rounds):
        for verb in ("refresh", "verify", "drain", "resume"):
            yield {"action": f"backend.{verb}", "backend": BACKEND}


class Client(threading.Thread):
    """Submits a list of requests, each until it is accepted, without waiting for their ends."""

    def __init__(self, product: Shaken, name: str, requests: list[Request]) -> None:
        super().__init__(name=name)
        self._product = product
        self.requests = requests
        self.accepted: list[tuple[int, Request]] = []
        self.failed: BaseException | None = None

    def run(self) -> None:
        try:
            with httpx.Client(
                base_url=self._product.url,
                headers={"Authorization": f"Bearer {self._product.token}"},
                timeout=20,
            ) as http:
                for number, request in enumerate(self.requests):
                    job = accept(self._product, http, request, f"{self.name}-{number}")
                    self.accepted.append((job["id"], request))
        except BaseException as error:
            self.failed = error


class Load:
    """All clients at once. ``accepted`` grows while they are at it."""

    def __init__(self, product: Shaken, chance: random.Random, volumes: int) -> None:
        self._product = product
        self._clients = [
            Client(
                product,
                f"client{number}",
                list(
                    life(
                        f"c{number}",
                        product.host,
                        random.Random(chance.random()),
                        policies=product.storage.has_policies,
                    )
                ),
            )
            for number in range(volumes)
        ]
        self._clients.append(Client(product, "administrator", list(of_backend(3))))

    @property
    def wanted(self) -> int:
        """How many requests there are in all."""
        return sum(len(client.requests) for client in self._clients)

    @property
    def accepted(self) -> int:
        """How many have been accepted so far."""
        return sum(len(client.accepted) for client in self._clients)

    @property
    def over(self) -> bool:
        return not any(client.is_alive() for client in self._clients)

    def start(self) -> None:
        for client in self._clients:
            client.start()

    def join(self) -> None:
        """Wait until everyone has been told that everything was accepted."""
        for client in self._clients:
            client.join()
        for client in self._clients:
            if client.failed is not None:
                raise client.failed
            self._product.asked += client.accepted
