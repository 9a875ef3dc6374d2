#!/bin/sh
# Installs PySpark (and with it all of Spark) into a cache, and prints its folder: a Python virtual environment. What is
# there already is not installed again; progress goes to stderr.
#
#   ROLLCALL_TOOLS  where the cache is; ~/.cache/rollcall/tools by default
set -eu

# What the fixtures were captured from.
version=4.3.0

fail() {
    echo "spark.sh: $1" >&2
    exit 1
}

command -v java >/dev/null || fail "Java is missing: install OpenJDK 17 or newer (Debian: openjdk-17-jre-headless)."
# `openjdk version "17.0.12" ...`; "1.8.0_392" is what 8 calls itself.
java=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
[ "${java:-0}" -ge 17 ] || fail "Java is too old, Spark needs 17 or newer: $(java -version 2>&1 | head -n 1)."
command -v flock >/dev/null || fail "flock is missing: install util-linux."
command -v python3 >/dev/null || fail "Python is missing: install Python 3.10 or newer (Debian: python3-venv)."
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "python3 does not run."

tools=${ROLLCALL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/tools}
mkdir -p "$tools" || fail "cannot write to $tools: set ROLLCALL_TOOLS to a folder that can be written."
# An environment belongs to the Python that made it.
folder=$(cd "$tools" && pwd)/spark-$version-python-$python
if ! [ -e "$folder/whole" ]; then
    # Paths are written into an environment: it cannot be made elsewhere and moved. Whoever comes second waits.
    exec 9>"$folder.lock"
    flock 9 || fail "cannot lock $folder.lock."
fi
if ! [ -e "$folder/whole" ]; then
    echo "spark.sh: installing PySpark $version, 450 MB ..." >&2
    rm -rf "$folder"
    python3 -m venv "$folder" || fail "no virtual environment: install python3-venv."
    "$folder/bin/pip" install --quiet --disable-pip-version-check "pyspark==$version" >&2 ||
        fail "PySpark was not installed: pip's own words are above."
    touch "$folder/whole"
fi
echo "$folder"
