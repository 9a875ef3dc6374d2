#!/bin/sh
# Builds the control plane of the tests (etcd, kube-apiserver, kubectl, kwok) into a cache, and prints the folder
# that holds it. What is there already is not built again; progress goes to stderr.
#
#   ROLLCALL_TOOLS  where the cache is; ~/.cache/rollcall/tools by default
#   GOFLAGS         as ever; -p=1 for a machine with little memory
set -eu

fail() {
    echo "build.sh: $1" >&2
    exit 1
}

# Name and package of each.
tools='etcd=go.etcd.io/etcd/server/v3
kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver
kubectl=k8s.io/kubernetes/cmd/kubectl
kwok=sigs.k8s.io/kwok/cmd/kwok'

here=$(cd "$(dirname "$0")" && pwd)
command -v go >/dev/null || fail "Go is missing: install Go 1.26 or newer, and have \`go\` on the path."

# Another Go, another dependency or another flag is another folder: nothing in it ever changes.
key=$({ cat "$here/build.sh" "$here/go.mod" "$here/go.sum" && go -C "$here" env GOVERSION GOOS GOARCH; } | sha256sum | cut -c1-16)
folder=${ROLLCALL_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/rollcall/tools}/$key
mkdir -p "$folder" || fail "cannot write to $folder: set ROLLCALL_TOOLS to a folder that can be written."
folder=$(cd "$folder" && pwd)

# What Kubernetes would otherwise call v0.0.0.
kubernetes=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v/ { print substr($2, 2) }' "$here/go.mod")
version=k8s.io/component-base/version
minor=${kubernetes#*.}
flags="-s -w -X $version.gitVersion=v$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"

for tool in $tools; do
    name=${tool%%=*}
    [ -x "$folder/$name" ] && continue
    began=$(date +%s)
    echo "build.sh: building $name, which takes minutes ..." >&2
    # Under another name until it is whole: whoever runs beside us sees all of it or nothing.
    CGO_ENABLED=0 go -C "$here" build -mod=readonly -trimpath -buildvcs=false -ldflags "$flags" \
        -o "$folder/.$name.$$" "${tool#*=}" ||
        fail "$name did not build. It needs Go 1.26 or newer, 4 GB of memory and, once, a Go module proxy (see \`go env GOPROXY\`)."
    mv "$folder/.$name.$$" "$folder/$name"
    echo "build.sh: $name: $(($(date +%s) - began)) s" >&2
done
echo "$folder"
