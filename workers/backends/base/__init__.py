"""What every kind of storage must be able to answer and do, and what only some can.

A driver knows its storage system and `orchestrator.domain`, nothing else: no jobs, no
database, no queue. Calls block. Each changing call is idempotent: creating what exists as
asked and bears our stamp succeeds, removing what is gone succeeds, and what differs from
what was asked raises `Conflict`. Every object is stamped with the immutable id the
inventory gave it, and calls act on that id: a name is only what people see.

`driver` is the small core that every driver has, `abilities` what is optional: a driver that
inherits an ability has its capability. `references` name an object, `facts` are what storage
says of one, and a `call` is what a driver may know of the work it is part of. Beside them stands
what drivers share.

A changing call receives a `Call`. Drivers call ``call.checkpoint()`` between their own
steps and while copying, directly before each irreversible step above all; it raises when
the worker has lost its lease, when the time is over, or when the job was canceled and
stopping is still safe. An exception from it leaves only unpublished objects behind, which
`discard` or the next attempt takes away.

Errors raised are those of `orchestrator.domain.errors`: `Outage` means that nothing of the
backend can be reached, and its jobs wait; `BackendUnavailable`, `BackendBusy` and `TimedOut`
are tried again; `StillWorking` means that the storage goes on by
itself, and the same call will be made again; `NoSpace`, `Conflict`, `InUse`, `NotFound`,
`IdentityMismatch`, `BackendError` are not.
"""
