#!/usr/bin/env bash
# Great Expectations 1.24.1 on Spark 4.3.0: judging a batch changes what the rest of the program reads.
#
# A Spark data source persists each batch (`persist=True` is the default) and never releases it. Spark finds cached data
# by the plan, so every later read of the same path in the session is served from the batch that was judged: after the
# file has been replaced, `spark.read.parquet(path).count()` still says 10, and the new batch of 25 rows is judged as 10.
# With `persist=False` both say 25. Nothing warns.
#
# What the platform does: its data source is made with `persist=False`, and the rows are kept by the caller, who lets
# them go.
#
# Needs python3.11 and Java 17 or 21. Exits non-zero if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check 'great-expectations==1.24.1' 'pyspark==4.3.0' 'pandas==2.3.3' 'pyarrow' setuptools
cat >"$work/judge.py" <<'PY'
import sys
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

options = {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
spark = SparkSession.builder.master("local[1]").config(map=options).getOrCreate()
folder = Path(sys.argv[1]) / "batch"
folder.mkdir()


def judged(count: int, **options: bool) -> tuple[int, int]:
    """Rows that Great Expectations counts in a new batch of `count`, and rows that Spark reads afterwards."""
    pq.write_table(pa.table({"id": list(range(count))}), folder / "part.parquet")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_spark(name="lake", **options).add_dataframe_asset(name="batch")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": spark.read.parquet(str(folder))})
    result = batch.validate(gxe.ExpectTableRowCountToEqual(value=count)).result
    return result["observed_value"], spark.read.parquet(str(folder)).count()


seen = {"default": [judged(10), judged(25)]}
spark.catalog.clearCache()
seen["persist=False"] = [judged(10, persist=False), judged(25, persist=False)]
print(seen)
assert seen == {"default": [(10, 10), (10, 10)], "persist=False": [(10, 10), (25, 25)]}, "it reads otherwise now"
PY
"$work/env/bin/python" -W ignore "$work/judge.py" "$work" 2>"$work/log" || { tail -5 "$work/log" >&2; exit 1; }
