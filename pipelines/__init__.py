"""Batch stages: `python -m pipelines STAGE --day … --run …`. Each is a pure transform and a thin main."""
