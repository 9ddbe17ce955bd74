"""Airflow wiring: one module per DAG, the operator that runs a stage, and the factory that hides where it runs."""
