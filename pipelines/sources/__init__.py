"""Adapters that turn other people's files into the canonical tables of `feature_repo.events`."""
