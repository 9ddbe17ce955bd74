"""The daily DAG: from raw interactions to a live release."""

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param, TriggerRule, chain, task

from dags import tasks

DOC = """
### From a day of interactions to a live release

1. **ingest → quality** read the source, put bad rows aside with their reason, and stop on a bad day
   (`var/current/runs/<run>/quality/report.html` says why). They take up every day that is not whole yet, or that the
   source or the API now says something else of. If the day is right although its figures are not, trigger the DAG
   again with *Accept the day*.
2. **trending, features → materialize** compute what the shop's shelves and the models read, and bring it to Redis.
3. **train_retrieval → evaluate_retrieval** train the two towers and compare them on held-out days with
   popularity, personal re-purchase and the live model.
4. **build_index → validate_index** and **train_ranker → evaluate_ranker** build on the towers; both must pass.
5. **register → deploy** put the models into MLflow and bring them live in the idle colour. `deploy` takes the
   release back by itself when it misbehaves.

A night without anything new is no failure: **ingest** is skipped, and all behind it; so is what follows **quality**
where the shop was closed on all days on which models would be judged. A source without any events in the four weeks up
to the day fails the run at **ingest**, which says what its last day is. No training begins before **trending** and
**features** have both succeeded.

A gate that refuses is not an error: the run ends at its **…_refused** task, the live release stays, and the note
on the run says which figure fell short. To try an idea, trigger the DAG with other parameters and compare the two
runs in MLflow (experiment *recsys*). Every task can be cleared and re-run; a run replaces only what it wrote.
"""
PARAMS = {
    "day": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Dataset day",
        description="the last day of data to use (UTC); empty: yesterday. Of data that have ended: their last day",
    ),
    "source": Param(
        None,
        type=["null", "string"],
        pattern=r"^(simulator|(online_retail|movielens|retailrocket|canonical):.+)?$",
        title="Source",
        description="simulator, online_retail:PATH, movielens:PATH, retailrocket:PATH or canonical:PATH; "
        "empty: that of the last run",
    ),
    "epochs": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=200,
        title="Epochs of the two towers",
        description="empty: 2 to 8, the more events an item has the more",
    ),
    "dim": Param(
        128, type="integer", enum=[16, 32, 64, 128, 256], title="Embedding dimension", description="of both towers"
    ),
    "reuse": Param(
        True,
        type="boolean",
        title="Keep what is unchanged",
        description="keep what an earlier run judged, computed and trained from the same data, options and code",
    ),
    "accept": Param(
        None,
        type=["null", "string"],
        title="Accept the day",
        description="why the day is right although the quality gate refuses it, such as: public holiday; kept in the "
        "lake and in the report, with your name",
    ),
    "approve": Param(
        False,
        type="boolean",
        title="Approve before promote",
        description="wait for a person's approval between the gates and the deployment",
    ),
}

REUSE = "{{ params.reuse }}"

with DAG(
    dag_id="daily",
    description="ingest, train, evaluate and deploy a day's release",
    schedule=tasks.at("30 2 * * *"),
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    user_defined_macros=tasks.MACROS,
    doc_md=DOC,
    tags=["recsys"],
) as dag:
    ingest = tasks.stage("ingest", source="{{ params.source }}")
    quality = tasks.stage(
        "quality",
        outlets=[tasks.EVENTS],
        reuse=REUSE,
        accept="{{ params.accept }}",
        accepted_by="{{ accepted_by(params, dag_run) }}",
    )
    trending = tasks.stage("trending", outlets=[tasks.TRENDING], reuse=REUSE)
    features = tasks.stage("features", outlets=[tasks.FEATURES], reuse=REUSE)
    materialize = tasks.stage("materialize")
    train_retrieval = tasks.stage(
        "train_retrieval", minutes=360, epochs="{{ params.epochs }}", dim="{{ params.dim }}", reuse=REUSE
    )
    evaluate_retrieval = tasks.gate("evaluate_retrieval", passed=["build_index", "train_ranker"])
    build_index = tasks.stage("build_index", minutes=240)
    validate_index = tasks.gate("validate_index", passed=["register"])
    train_ranker = tasks.stage("train_ranker", minutes=360, reuse=REUSE)
    evaluate_ranker = tasks.gate("evaluate_ranker", passed=["register"])
    register = tasks.stage("register")

    @task.branch
    def promotion(params: dict[str, object] | None = None) -> str:
        """Ask a person where the run's parameters say so."""
        return "approval" if params and params["approve"] else "deploy"

    approval = ApprovalOperator(
        task_id="approval",
        subject="Bring the release of {{ day_of(params, dag_run) }} live?",
        body="All gates passed; the figures are in the run's note and in MLflow under this run.",
    )
    deploy = tasks.stage("deploy", outlets=[tasks.RELEASE])
    deploy.trigger_rule = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
    materialize_embeddings = tasks.stage("materialize", task_id="materialize_embeddings", views="embeddings")

    chain(ingest, quality, [trending, features])
    chain([trending, features], materialize, build_index)
    # The towers need no trending lists, but the release does: without them, minutes of training would be for nothing.
    # On a good day this costs no time, because features take longer.
    chain([trending, features], train_retrieval, evaluate_retrieval, [build_index, train_ranker])
    chain(build_index, validate_index, register)
    chain(train_ranker, evaluate_ranker, register)
    chain(register, promotion(), [approval, deploy])
    chain(approval, deploy, materialize_embeddings)
