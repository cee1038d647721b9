# What the scripts of this provider share. They are run in this directory.
set -eu
export PATH="$PATH:/usr/sbin:/sbin"

fail() {
    echo "$*" >&2
    exit 1
}

[ -n "${EXTP_PATH:-}" ] || fail "the parameter 'path' is missing: a directory for the images"
[ -d "$EXTP_PATH" ] || fail "$EXTP_PATH is no directory: is it mounted?"

# A volume's name becomes one file name, whatever it has in it.
image_of() {
    printf '%s/%s.img' "$EXTP_PATH" "$(printf '%s' "$1" | sed 's/%/%25/g; s,/,%2F,g')"
}

image=$(image_of "$VOL_NAME")

# The loop device that shows the image; nothing if there is none.
device_of() {
    losetup --noheadings --output NAME --associated "$1" | sed -n 1p
}
