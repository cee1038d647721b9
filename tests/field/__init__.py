"""The product on servers as people run them, installed from a distribution's packages."""
