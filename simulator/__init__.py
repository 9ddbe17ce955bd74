"""Shoppers with known true preferences: demo data, closed-loop and load tests. `python -m simulator --help`."""
