"""Whenever new events of the day were published: recompute the trending lists and bring them to the shelves."""

from airflow.sdk import DAG

from dags import tasks

DOC = """
Scheduled by the asset that the **intraday** DAG renews. Recomputes trending, popular and co-visitation lists over
the trailing window with Spark and writes them to the online store, where the API reads them within a minute.
"""

with DAG(
    dag_id="trending",
    description="recompute the trending lists from new events",
    schedule=[tasks.INTRADAY_EVENTS],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,  # it does nothing until `intraday`, which a person turns on, has published events
    user_defined_macros=tasks.MACROS,
    doc_md=DOC,
    tags=["recsys"],
) as dag:
    trending = tasks.stage("trending", day=tasks.TODAY, run=tasks.TODAYS_RUN, minutes=25, outlets=[tasks.TRENDING])
    materialize = tasks.stage("materialize", day=tasks.TODAY, run=tasks.TODAYS_RUN, minutes=25, views="trending")
    trending >> materialize
