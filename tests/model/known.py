"""What the engine does not keep yet. Each line excuses one thing: delete it with its cause."""

#: A claim that failed before it reached the storage has not told it its fencing number.
LATE_CALL = "a late call of an earlier claim takes effect after its job has failed"
#: A drain that depends on a job of a draining backend holds up every resume.
RESUME_BEHIND_DRAIN = "a resume waits for a drain that cannot begin"

KNOWN = {
    LATE_CALL,
    RESUME_BEHIND_DRAIN,
}
