"""Schemas, request-time transforms and Feast definitions: what training and serving must agree on."""

from recsys import typechecks

typechecks.skip()
