#!/bin/sh
# Builds Helm for the tests of deploy/chart into a cache, and prints the path of the program. What is there already is not
# built again; progress goes to stderr. It is apart from ../build.sh, whose digest changes with each line of it: then the
# whole control plane is built again.
#
#   ROLLCALL_TOOLS  where the cache is; ~/.cache/rollcall/tools by default
#   GOFLAGS         as ever; -p=1 for a machine with little memory
set -eu

fail() {
    echo "helm/build.sh: $1" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || fail "Go is missing: install Go 1.26 or newer, and have \`go\` on the path."

# Another Go, another dependency or another flag is another folder: nothing in it ever changes.
key=$({ cat "$here/build.sh" "$here/go.mod" "$here/go.sum" && go -C "$here" env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
folder=${ROLLCALL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/tools}/helm-$key
mkdir -p "$folder" || fail "cannot write to $folder: set ROLLCALL_TOOLS to a folder that can be written."
folder=$(cd "$folder" && pwd)

if [ ! -x "$folder/helm" ]; then
    began=$(date +%s)
    echo "helm/build.sh: building Helm ..." >&2
    # Under another name until it is whole: whoever runs beside us sees all of it or nothing.
    # The same flags as those of the control plane: Go compiles what both have once.
    CGO_ENABLED=0 go -C "$here" build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" \
        -o "$folder/.helm.$$" helm.sh/helm/v4/cmd/helm ||
        fail "Helm did not build. It needs Go 1.26 or newer, 2 GB of memory and, once, a Go module proxy (see \`go env GOPROXY\`)."
    mv "$folder/.helm.$$" "$folder/helm"
    echo "helm/build.sh: Helm: $(($(date +%s) - began)) s" >&2
fi
echo "$folder/helm"
