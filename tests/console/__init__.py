"""The console, used as browsers use it, against the whole running product."""
