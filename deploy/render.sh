#!/bin/sh
# Renders the manifests for kubectl from the chart, with its default values: rollcall.yaml and fleets.yaml in a folder,
# by default the one of this script. Needs Helm (`helm`, or $HELM); tests/tools/helm/build.sh builds one.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
into=${1:-$here}

render() {
    # Of the Kubernetes that Rollcall is tested on, and without the marks of an installation by Helm.
    text=$("${HELM:-helm}" template rollcall "$here/chart" --namespace rollcall --kube-version 1.36.0 --skip-tests "$@")
    echo "$text" | sed '/^ *app.kubernetes.io\/managed-by: /d; /^ *helm.sh\/chart: /d' | cat -s
}

cat >"$into/rollcall.yaml" <<'END'
# Rollcall in a cluster, as README.md describes: kubectl apply -f deploy/rollcall.yaml
# Rendered from deploy/chart by deploy/render.sh: change the chart, and run that again.
---
# Users who may create pods in it can act as Rollcall: keep drivers and executors out.
apiVersion: v1
kind: Namespace
metadata:
  name: rollcall
  labels:
    pod-security.kubernetes.io/enforce: restricted
END
render --include-crds >>"$into/rollcall.yaml"

cat >"$into/fleets.yaml" <<'END'
# Rollcall's permissions in a namespace with fleets: kubectl apply -n NAMESPACE -f deploy/fleets.yaml
# Rendered from deploy/chart by deploy/render.sh: change the chart, and run that again.
END
render --show-only templates/fleets.yaml --set 'fleetNamespaces={any}' | sed '/^  namespace: any$/d' >>"$into/fleets.yaml"
