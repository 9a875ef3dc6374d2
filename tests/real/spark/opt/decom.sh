#!/usr/bin/env bash
# Spark's kubernetes/dockerfiles/spark/decom.sh: asks the executor to leave, and waits until it has. There it looks for the
# only java of the container; here the kubelet names it.
kill -s PWR "$CONTAINER_PID"
tail --pid="$CONTAINER_PID" -f /dev/null
