"""The job engine. Read it in the order a job lives:

`outlook` (what there will be), `rules` (what each action needs and does), `submit`,
`lanes` (who waits for whom), `wakeups` (telling workers), `claim`, `finish`, `schedule`
(what time brings), `cancel`, `waiting` (why a job waits), `views` (what readers see).
"""
