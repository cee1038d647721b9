"""The job engine. Read it in the order a job lives:

`submission` (what is asked), `outlook` (what there will be), `rules` (what each action needs
and does), `drafts` (the checks), `submit` (the commit), `lanes` (who waits for whom),
`wakeups` (telling workers), `claim`, `finish`, `upkeep` (what time brings), `cancel`,
`retry`, `notices` (telling waiters), `waiting` (why a job waits), `views` (what readers see).
"""
