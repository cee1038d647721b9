#!/bin/sh
# Make a volume, wait until it is there, and act on each way this can end.
#
#   ORCHESTRATOR_URL=http://127.0.0.1:8080 ORCHESTRATOR_TOKEN=... \
#       sh submit_and_wait.sh fast vm1 10G
#
# May be run again at any time: the key below makes a repeated submission the same one.
set -u

if [ $# -ne 3 ]; then
    echo "usage: $0 BACKEND VOLUME SIZE" >&2
    exit 2
fi
backend=$1 volume=$2 size=$3

# The same request has the same key, so a run that follows a killed one finds its job.
# Where a volume of this name may be made anew on another day, put the day in the key.
key="make-$backend-$volume-$size"

attempt=1
while :; do
    # Told on standard output: the job. On standard error: what went wrong, in words.
    orchestrator submit volume.create --backend "$backend" --volume "$volume" "size=$size" \
        --idempotency-key "$key" --wait --timeout 300
    status=$?

    case $status in
    0)  # The job has ended and succeeded.
        echo "$volume is there."
        exit 0
        ;;
    1)  # It was accepted and tried, and failed or was canceled. The reason was printed; once
        # that is mended: orchestrator job retry ID --wait
        echo "$volume could not be made." >&2
        exit 1
        ;;
    2)  # The request itself is wrong: repeating it helps nobody.
        echo "The request was not understood; see above." >&2
        exit 2
        ;;
    3)  # There is no such backend.
        echo "Nothing is called $backend; see: orchestrator backend list" >&2
        exit 3
        ;;
    4)  # What is there forbids it: the name is taken, or there is no room.
        if orchestrator volume show "$volume" --backend "$backend" >/dev/null 2>&1; then
            echo "There is a volume $volume already; it was not made by this script." >&2
        fi
        exit 4
        ;;
    5)  # The token is missing, expired, or may only read.
        echo "Check ORCHESTRATOR_TOKEN: it needs the role operator." >&2
        exit 5
        ;;
    6)  # Still running after the time we gave it. Nothing is wrong: it goes on, and running
        # this script again waits for the same job.
        echo "$volume is still being made; run this again to wait for it." >&2
        exit 6
        ;;
    7)  # Nobody answered. Whether the request arrived is not known, which the key makes
        # harmless: the same submission is tried again.
        if [ "$attempt" -ge 5 ]; then
            echo "Gave up after $attempt attempts." >&2
            exit 7
        fi
        sleep $((attempt * 5))
        attempt=$((attempt + 1))
        ;;
    *)  # Interrupted (130), or killed: the job, if it was accepted, goes on.
        exit "$status"
        ;;
    esac
done
