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
command -v python3 >/dev/null || fail "Python is missing: install Python 3.10 or newer (Debian: python3-venv)."
folder=${ROLLCALL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/tools}/spark-$version
if ! [ -e "$folder/whole" ]; then
    echo "spark.sh: installing PySpark $version, 450 MB ..." >&2
    rm -rf "$folder"
    mkdir -p "$folder" || fail "cannot write to $folder: set ROLLCALL_TOOLS to a folder that can be written."
    python3 -m venv "$folder" || fail "no virtual environment: install python3-venv."
    "$folder/bin/pip" install --quiet --disable-pip-version-check "pyspark==$version" >&2 ||
        fail "PySpark was not installed: pip's own words are above."
    touch "$folder/whole"
fi
(cd "$folder" && pwd)
