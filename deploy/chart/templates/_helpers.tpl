{{- define "rollcall.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "rollcall.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else }}
{{- $name := include "rollcall.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "rollcall.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "rollcall.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "rollcall.image" -}}
{{- .Values.image.repository -}}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "rollcall.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rollcall.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rollcall.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "rollcall.labels" -}}
{{ include "rollcall.selectorLabels" . }}
{{ include "rollcall.commonLabels" . }}
{{- end }}

{{- /* The pod of `helm test` must not be selected by the Service, the Deployment and the PodDisruptionBudget. */}}
{{- define "rollcall.testLabels" -}}
app.kubernetes.io/name: {{ include "rollcall.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rollcall.subjects" -}}
subjects: [{ kind: ServiceAccount, name: {{ include "rollcall.serviceAccount" . }}, namespace: {{ .Release.Namespace }} }]
{{- end }}

{{- /* What the schema cannot express. */}}
{{- define "rollcall.check" -}}
{{- if not (or .Values.watchFleets .Values.fleets) }}
{{- fail "there are no fleets: set watchFleets=true, or give documents in fleets" }}
{{- end }}
{{- if and (not .Values.leaderElection.enabled) (gt (int .Values.replicas) 1) }}
{{- fail "without leader election all replicas would lead: set replicas=1, or leaderElection.enabled=true" }}
{{- end }}
{{- $policies := compact (list .Values.policies.configMap .Values.policies.existingClaim .Values.policies.image) }}
{{- if gt (len $policies) 1 }}
{{- fail (printf "policies come from one place: set one of policies.configMap, policies.existingClaim and policies.image (there are %s)" (join ", " $policies)) }}
{{- end }}
{{- end }}
