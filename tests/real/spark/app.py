"""An application like many: jobs with a shuffle, one after the other, until it is killed.

It prints a line for each. One executor at a time can be made to run out of memory: its id is written into the file
`out-of-memory` of the working directory, and the file goes when the job that did it has ended (well: the task is
tried again elsewhere).
"""
import os
import pathlib
import time

from pyspark.sql import SparkSession

# spark-submit refuses 0; here it is a setting like any other.
spark = SparkSession.builder.appName("real").config("spark.executor.instances", os.environ["INSTANCES"]).getOrCreate()
print("application", spark.sparkContext.applicationId, flush=True)

victim = pathlib.Path("out-of-memory")
number = 0
while True:
    number += 1
    rows = spark.range(0, 400_000, 1, 8).selectExpr("id % 1000 AS k", "id")
    expected = 400_000 * 399_999 // 2
    dying = victim.exists()
    if dying:
        executor = int(victim.read_text())
        # Two billion letters do not fit into its heap. Who it is, each executor finds in its own environment.
        rows = rows.selectExpr("k", f"""CASE WHEN reflect('java.lang.System', 'getenv', 'SPARK_EXECUTOR_ID') = '{executor}'
            THEN length(repeat('x', cast(2000000000 + id AS int))) ELSE id END AS id""")
    began = time.monotonic()
    try:
        summed = rows.groupBy("k").agg({"id": "sum"}).agg({"sum(id)": "sum"}).first()[0]
        assert summed == expected, summed
        print(f"job {number} ok {time.monotonic() - began:.1f} s", flush=True)
    except Exception as error:  # The test counts them, whatever they are.
        print(f"job {number} FAILED {error!r}", flush=True)
    if dying:
        victim.unlink()
    time.sleep(0.5)
