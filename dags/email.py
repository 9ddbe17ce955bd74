"""Once a week, where somebody turns it on: recommendations for an e-mail to every active user, as files."""

from airflow.sdk import DAG, Param

from dags import tasks

DOC = """
### What an e-mail to each active user recommends

Asks the running API for the surface `email` of every user with an event in the last days, and writes the answers to the
lake as `email/day=…`: user, position, item with title and price, the reason, and the release and request that they come
from. It sends nothing: whoever does knows who may be written to, and puts the `request_id` into the events that the
e-mail leads to.

At most a few requests are in flight, and fewer while the API is slow, so it may run beside shoppers; the result says
how many users a second that was. A run that failed goes on where it ended when its task is tried again or cleared. A
run of a day replaces that day's file alone.

It is paused until somebody turns it on, or triggers it (`recsys run email`), which turns it on too.
"""
PARAMS = {
    "day": Param(
        None,
        type=["null", "string"],
        format="date",
        title="Dataset day",
        description="the last day of activity to look at, and the name of the partition (UTC); empty: yesterday",
    ),
    "active_days": Param(
        30,
        type="integer",
        minimum=1,
        maximum=3650,
        title="Active within days",
        description="users with an event in so many days up to that day",
    ),
    "count": Param(10, type="integer", minimum=1, maximum=100, title="Items", description="for each user"),
    "in_flight": Param(
        4,
        type="integer",
        minimum=1,
        maximum=64,
        title="Requests in flight",
        description="at most; more is quicker, and slower for shoppers",
    ),
}

with DAG(
    dag_id="email",
    description="write recommendations for active users to files",
    schedule=tasks.at("0 6 * * 1"),  # Monday, when the release of the night is live
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    params=PARAMS,
    user_defined_macros=tasks.MACROS,
    doc_md=DOC,
    tags=["recsys"],
) as dag:
    tasks.stage(
        "email",
        minutes=360,
        outlets=[tasks.EMAIL],
        active_days="{{ params.active_days }}",
        count="{{ params.count }}",
        in_flight="{{ params.in_flight }}",
    )
