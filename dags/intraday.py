"""Every half hour: bring the day's events from the event bus through the quality gate."""

from airflow.sdk import DAG

from dags import tasks

DOC = """
Reads what the API received today, checks it, and publishes the day so far, which is not whole before the **daily** DAG
has read it. **ingest** and **quality** are skipped where nothing arrived. New events renew an asset on which the
**trending** DAG is scheduled. **decisions** publishes what the API showed meanwhile: one row per item, with its
propensity (`lake/decisions`).
"""

with DAG(
    dag_id="intraday",
    description="publish today's events from the event bus",
    schedule=tasks.at("*/30 * * * *"),
    catchup=False,
    max_active_runs=1,
    user_defined_macros=tasks.MACROS,
    doc_md=DOC,
    tags=["recsys"],
) as dag:
    ingest = tasks.stage("ingest", day=tasks.TODAY, run=tasks.TODAYS_RUN, source="bus", minutes=20)
    # The catalogue is that of the last night, and the users are: they cannot have shrunk.
    quality = tasks.stage(
        "quality", day=tasks.TODAY, run=tasks.TODAYS_RUN, minutes=20, outlets=[tasks.INTRADAY_EVENTS], min_volume="0"
    )
    decisions = tasks.stage("decisions", day=tasks.TODAY, run=tasks.TODAYS_RUN, minutes=20)
    ingest >> quality
