"""History: what happened to which object, by whom, numbered in order of commit."""
