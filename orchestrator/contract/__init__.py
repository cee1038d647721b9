"""What the service answers, declared once: its routes send these, the client reads them."""
