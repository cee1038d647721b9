"""What there is: backends, volumes, snapshots, attachments, locks, hosts."""
