#!/bin/sh
# Installs PySpark (and with it all of Spark) into a cache, and prints its folder: a Python virtual environment. What is
# there already is not installed again; progress goes to stderr.
#
#   spark.sh [VERSION]   for instance 3.5.9; each version has a folder of its own
#
#   ROLLCALL_TOOLS  where the cache is; ~/.cache/rollcall/tools by default
set -eu

# By default, what the fixtures were captured from.
version=${1:-4.3.0}

fail() {
    echo "spark.sh: $1" >&2
    exit 1
}

# `3.5` alone would be another release tomorrow, in a folder of the same name.
case $version in
*[!0-9.]* | .* | *. | *..* | *.*.*.*) whole= ;;
*.*.*) whole=yes ;;
*) whole= ;;
esac
[ "$whole" ] || fail "\"$version\" is no release of Spark: name it in full, for instance 3.5.9. Usage: spark.sh [VERSION]"
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
        fail "PySpark $version was not installed: pip says above why, and which versions there are."
    touch "$folder/whole"
fi
echo "$folder"
