"""An application like many: jobs with a shuffle, one after the other, until it is killed.

It prints a line for each. Files in its working directory change what it does:

- `out-of-memory`: the id of an executor that runs out of memory. The file goes when the job that did it has ended (well:
  the task is tried again elsewhere).
- `load`: `busy` for jobs that keep sixteen tasks waiting, `idle` for none.
- `kill`: the id of an executor that the driver itself kills.
"""
import os
import pathlib
import time

from pyspark.sql import SparkSession

# spark-submit refuses 0; here it is a setting like any other.
spark = SparkSession.builder.appName("real").config("spark.executor.instances", os.environ["INSTANCES"]).getOrCreate()
print("application", spark.sparkContext.applicationId, flush=True)

victim, load, kill = (pathlib.Path(name) for name in ("out-of-memory", "load", "kill"))


def shuffle():
    rows = spark.range(0, 400_000, 1, 8).selectExpr("id % 1000 AS k", "id")
    expected = 400_000 * 399_999 // 2
    if victim.exists():
        executor = int(victim.read_text())
        # Two billion letters do not fit into its heap. Who it is, each executor finds in its own environment.
        rows = rows.selectExpr("k", f"""CASE WHEN reflect('java.lang.System', 'getenv', 'SPARK_EXECUTOR_ID') = '{executor}'
            THEN length(repeat('x', cast(2000000000 + id AS int))) ELSE id END AS id""")
    summed = rows.groupBy("k").agg({"id": "sum"}).agg({"sum(id)": "sum"}).first()[0]
    assert summed == expected, summed


def sleep():
    rows = spark.range(0, 16, 1, 16).selectExpr("reflect('java.lang.Thread', 'sleep', 1000L)").collect()
    assert len(rows) == 16, rows


number = 0
while True:
    if kill.exists():
        killed = spark.sparkContext._jsc.sc().killExecutor(kill.read_text())
        print("killed", killed, flush=True)
        kill.unlink()
    now = load.read_text() if load.exists() else ""
    dying = victim.exists()
    if now != "idle":
        number += 1
        began = time.monotonic()
        try:
            sleep() if now == "busy" else shuffle()
            print(f"job {number} ok {time.monotonic() - began:.1f} s", flush=True)
        except Exception as error:  # The test counts them, whatever they are.
            print(f"job {number} FAILED {error!r}", flush=True)
    if dying:
        victim.unlink()
    time.sleep(0.5)
