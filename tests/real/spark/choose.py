"""Asks Spark's own ExecutorRollPlugin which executors it would roll, of many random fleets.

`choose.py FLEETS SEED` writes a line of JSON for each fleet: what Spark's REST API would answer at /allexecutors, its
rows shuffled; the ids in the order in which the plugin sees them; the plugin's minimum of tasks; and its pick by each
policy. Everything that decides is Spark's: its store, its list of executors, its JSON, its private `choose`.
"""

import json
import os
import random
import sys

from pyspark.java_gateway import launch_gateway

LONG_MAX = 2**63 - 1
INT_MAX = 2**31 - 1
ADDED_MS = 1_700_000_000_000


def values(dice, size):
    """A column: such values that ties, lone giants, and what a float cannot tell apart are likely."""
    style = dice.randrange(10)
    lone = dice.randrange(max(size, 1))
    column = []
    for row in range(size):
        if style == 0:
            value = 0
        elif style == 1:
            value = 7
        elif style in (2, 3):
            value = dice.randrange(4)
        elif style == 4:
            value = dice.randrange(100_000)
        elif style == 5:
            value = 1_000_000 if row == lone else dice.randrange(10)
        elif style == 6:
            value = LONG_MAX - dice.randrange(3)
        elif style == 7:
            value = LONG_MAX if row == lone else 0
        elif style == 8:
            value = 2**53 + dice.randrange(3)
        else:
            value = dice.randrange(-3, 4)
        column.append(value)
    return column


def ints(dice, size):
    return [max(-(2**31), min(value, INT_MAX)) for value in values(dice, size)]


def fleet(dice):
    """Executors as Spark's ExecutorSummary has them."""
    size = dice.choice([0, 1, 2, 3, 5, 8, 8, 12, 12, 20, 30])
    digits = dice.choice([1, 2, 3, 4])
    ids = dice.sample(range(1, 10**digits), min(size, 10**digits - 1))
    size = len(ids)
    longs = {
        name: values(dice, size)
        for name in ["totalDuration", "totalGCTime", "totalInputBytes", "totalShuffleRead", "totalShuffleWrite",
                     "memoryUsed", "diskUsed", "heap", "offHeap"]
    }
    counts = {name: ints(dice, size) for name in ["activeTasks", "failedTasks", "completedTasks", "totalTasks"]}
    spread_ms = dice.choice([1, 4, 10**9])
    missing = dice.choice([0.0, 0.0, 0.3, 0.9, 1.0])
    dead = dice.choice([0.0, 0.0, 0.2])
    rows = []
    for row, executor in enumerate(ids):
        summary = {name: column[row] for name, column in {**longs, **counts}.items()}
        peaks = {"JVMHeapMemory": summary.pop("heap"), "JVMOffHeapMemory": summary.pop("offHeap")}
        if dice.random() < 0.1:
            del peaks[dice.choice(sorted(peaks))]
        summary.update({
            "id": str(executor), "hostPort": f"10.0.0.{row}:7079", "isActive": dice.random() >= dead,
            "rddBlocks": 0, "totalCores": 1, "maxTasks": 1, "isBlacklisted": False, "maxMemory": 97832140,
            "addTime": ADDED_MS + dice.randrange(spread_ms), "executorLogs": {}, "blacklistedInStages": [],
            "attributes": {}, "resources": {}, "resourceProfileId": 0, "isExcluded": False, "excludedInStages": [],
        })
        if dice.random() >= missing:
            summary["peakMemoryMetrics"] = peaks
        rows.append(summary)
    return rows


def main(fleets, seed, out):
    dice = random.Random(seed)
    gateway = launch_gateway()
    compiler = gateway.jvm.org.codehaus.janino.SimpleCompiler()
    with open(os.path.join(os.path.dirname(__file__), "Choose.java"), encoding="utf-8") as source:
        compiler.cook(source.read())
    spark = compiler.getClassLoader().loadClass("Choose").newInstance()
    for _ in range(fleets):
        minimum = dice.choice([0, 0, 1, 3])
        stored = [{"info": row} for row in fleet(dice)]
        answered, active, *picks = spark.ask(json.dumps(stored), minimum).split("\x1e")
        answered = json.loads(answered)
        dice.shuffle(answered)
        line = {
            "minTasks": minimum,
            "order": [row["id"] for row in json.loads(active)],
            "picks": {policy: pick or None for policy, pick in zip(picks[::2], picks[1::2])},
            "executors": answered,
        }
        out.write(json.dumps(line) + "\n")
    out.flush()
    gateway.shutdown()


if __name__ == "__main__":
    # The JVM inherits standard output, and is not to write into the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        main(int(sys.argv[1]), int(sys.argv[2]), answers)
