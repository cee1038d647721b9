"""The console: pages for people, rendered here from what the routes of ``/v1`` answer."""
